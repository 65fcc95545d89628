"""The database of the ledger, which may be a server that goes away for a while: the one place that tries again."""

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partialmethod
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from ssl_sweep.storage import POSTGRESQL, redacted

PATIENCE_S = 300.0  # how long a sweep waits for its ledger to come back
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 8.0
log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class LedgerAway(ValueError):  # noqa: N818 - says what happened
    """The ledger's database cannot be reached, or has been away for too long."""


def open_storage(url: str) -> RDBStorage:
    """The database at a URL of SQLAlchemy's, its tables made when it is new.

    Raises:
        LedgerAway: it cannot be reached, its driver is not installed, or the URL is none.
    """
    try:
        if make_url(url).get_backend_name() == "sqlite":
            # two sweeps of one file wait for one another's writes rather than fail
            return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
        arguments = POSTGRESQL if make_url(url).get_backend_name() == "postgresql" else {}
        return LastingStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": arguments})
    except ImportError as error:
        remedy = "for PostgreSQL: pip install 'ssl-sweep[postgres]'"
        raise LedgerAway(f"the ledger at {redacted(url)} lacks its database driver ({error}); {remedy}") from error
    except ArgumentError as error:
        remedy = "set SSL_SWEEP_LEDGER to one, such as postgresql://USER@HOST/DATABASE, or unset it"
        raise LedgerAway(f"the ledger's {redacted(url)!r} is no database's URL ({error}); {remedy}") from error
    except OperationalError as error:
        remedy = "check SSL_SWEEP_LEDGER, that the database is up, and the password (PGPASSWORD for PostgreSQL)"
        raise LedgerAway(f"the ledger at {redacted(url)} cannot be reached ({_reason(error)}); {remedy}") from error


class LastingStorage(RDBStorage):
    """A database on a server that may be restarted: what it does not answer is asked again, for some minutes.

    An answer may be lost of a write that was done. Most writes may be repeated; of those that may not, a new try looks
    first whether the one before has done it. That holds as only the sweep's driver writes its choices.
    """

    _newest: int | None  # of the trials that were there before the one that is being made

    def __init__(self, url: str, *, engine_kwargs: dict[str, Any]) -> None:
        super().__init__(url, engine_kwargs)
        weakref.finalize(self, self.engine.dispose)  # a server has few connections: leave none open behind

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def once(again: bool) -> bool:
            if again and RDBStorage.get_trial(self, trial_id).state == state:
                return True
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)

        return self._insisted(once)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        self._newest = None
        return self._insisted(lambda _: RDBStorage._create_new_trial(self, study_id, template_trial))

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        """Optuna's own tries again come through here too."""
        ordered = text("SELECT trial_id FROM trials WHERE study_id = :study ORDER BY trial_id DESC LIMIT 1")
        newest = session.execute(ordered, {"study": study_id}).scalar() or 0
        if self._newest is None:
            self._newest = newest
        elif newest > self._newest:
            from optuna.storages._rdb.models import TrialModel

            return session.get(TrialModel, newest)
        return super()._get_prepared_new_trial(study_id, template_trial, session)

    def _repeated(self, name: str, *wiring: Any, **values: Any) -> Any:
        return self._insisted(lambda _: getattr(RDBStorage, name)(self, *wiring, **values))

    def _insisted(self, call: Callable[[bool], Answer]) -> Answer:
        """The answer to a call, which is told whether it is made again. Raises LedgerAway."""
        deadline, delay_s, again = time.monotonic() + PATIENCE_S, FIRST_DELAY_S, False
        while True:
            try:
                answer = call(again)
            except (SQLAlchemyError, StorageInternalError) as error:
                if not _is_away(error):
                    raise
                if time.monotonic() + delay_s > deadline:
                    raise self._given_up(error) from error
                if not again:
                    log.warning("the ledger at %s is away (%s); trying on", redacted(self.url), _reason(error))
            else:
                if again:
                    log.warning("the ledger at %s is back", redacted(self.url))
                return answer
            time.sleep(delay_s)
            again, delay_s = True, min(2 * delay_s, LONGEST_DELAY_S)

    def _given_up(self, error: Exception) -> LedgerAway:
        return LedgerAway(
            f"the ledger at {redacted(self.url)} has been away for {PATIENCE_S:g} s ({_reason(error)}); when it is "
            "back, `ssl-sweep resume` goes on with the sweep"
        )


# every other question and write of Optuna's, each a transaction of its own that may be repeated
for _name in (
    "create_new_study",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "_set_trial_param",
    "_get_trials",
):
    setattr(LastingStorage, _name, partialmethod(LastingStorage._repeated, _name))


def _is_away(error: Exception) -> bool:
    """Whether it was the connection that failed, rather than what was asked."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | InterfaceError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    said = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
    return redacted(said.splitlines()[0])
