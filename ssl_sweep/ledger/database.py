"""The database of the ledger, which may be a server that goes away for a while: the one place that tries again."""

import json
import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partialmethod
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, and_, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.compat import GET_TRIALS, NOTES
from ssl_sweep.ledger.new_tables import make_tables
from ssl_sweep.storage.layout import POSTGRESQL
from ssl_sweep.storage.urls import redacted
from ssl_sweep.trialdir.retry import retry

PATIENCE_S = 300.0  # how long a sweep waits for its ledger to come back
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 8.0
log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class LedgerUnreachableError(UserError, ValueError):
    """The ledger's database cannot be reached, or has been away for too long."""


def open_storage(url: str, *, known: bool = False) -> "DatabaseStorage":
    """The database at a URL of SQLAlchemy's, its tables made when it is new.

    Those of a `known` one were there: to look at them again Optuna loads all its migrations, 30 ms.

    Raises:
        LedgerUnreachableError: it cannot be reached, its driver is not installed, or the URL is none.
    """
    try:
        if known:
            with suppress(StorageInternalError):  # it is away, or another's: what follows finds out
                return _connect(url, skip_table_creation=True, skip_compatibility_check=True)
        return make_tables(lambda: _connect(url))
    except ImportError as error:
        remedy = "for PostgreSQL: pip install 'ssl-sweep[postgres]'"
        raise LedgerUnreachableError(
            f"the ledger at {redacted(url)} lacks its database driver ({error}); {remedy}"
        ) from error
    except ArgumentError as error:
        remedy = "set SSL_SWEEP_LEDGER to one, such as postgresql://USER@HOST/DATABASE, or unset it"
        raise LedgerUnreachableError(
            f"the ledger's {redacted(url)!r} is no database's URL ({error}); {remedy}"
        ) from error
    except OperationalError as error:
        remedy = "check SSL_SWEEP_LEDGER, that the database is up, and the password (PGPASSWORD for PostgreSQL)"
        raise LedgerUnreachableError(
            f"the ledger at {redacted(url)} cannot be reached ({_reason(error)}); {remedy}"
        ) from error


def _connect(url: str, **options: Any) -> "DatabaseStorage":
    backend = make_url(url).get_backend_name()
    if backend == "sqlite":  # two sweeps of one file wait for one another's writes rather than fail
        return DatabaseStorage(url, engine_kwargs={"connect_args": {"timeout": 60}}, **options)
    arguments = POSTGRESQL if backend == "postgresql" else {}
    return RetryingStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": arguments}, **options)


class DatabaseStorage(RDBStorage):
    """A database of studies. A driver's trials come here by `transact` alone."""

    def transact(self, write: Callable[[Connection, bool], Answer]) -> Answer:
        """Have a transaction written; `write` is told whether one before it failed, which may have been done."""
        with self.engine.begin() as connection:
            return write(connection, False)

    def swap_note(self, study: str, name: str, old: Any, new: Any) -> bool:
        """See `Notes.swap`."""
        row = {"study_id": self.get_study_id_from_name(study), "key": name}
        is_row = and_(NOTES.c.study_id == row["study_id"], NOTES.c.key == name)
        told, wanted = json.dumps(old), json.dumps(new)

        def swap(connection: Connection, again: bool) -> bool:
            swapped = NOTES.update().where(is_row, NOTES.c.value_json == told).values(value_json=wanted)
            if connection.execute(swapped).rowcount:
                return True
            found = connection.execute(select(NOTES.c.value_json).where(is_row)).scalar()
            if found is None and old is None:
                connection.execute(NOTES.insert(), {**row, "value_json": wanted})
                return True
            return again and found == wanted  # the try before has done it

        try:
            return self.transact(swap)
        except IntegrityError:  # somebody else has just written the first one
            return False


class RetryingStorage(DatabaseStorage):
    """A database on a server that may be restarted: what it does not answer is asked again, for some minutes.

    An answer may be lost of a write that was done.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        weakref.finalize(self, self.engine.dispose)  # a server has few connections: leave none open behind

    def transact(self, write: Callable[[Connection, bool], Answer]) -> Answer:
        """As above, again and again for some minutes. Raises LedgerUnreachableError."""

        def once(again: bool) -> Answer:
            with self.engine.begin() as connection:
                return write(connection, again)

        return self._with_retries(once)

    def _retried(self, name: str, *wiring: Any, **values: Any) -> Any:
        return self._with_retries(lambda _: getattr(RDBStorage, name)(self, *wiring, **values))

    def _with_retries(self, call: Callable[[bool], Answer]) -> Answer:
        """The answer to a call, which is given whether it is repeated. Raises LedgerUnreachableError."""

        def call_again(failures: int) -> Answer:
            answer = call(failures > 0)
            if failures:
                log.warning("the ledger at %s is back", redacted(self.url))
            return answer

        def warn_once(error: Exception, failures: int) -> None:
            if not failures:
                log.warning("the ledger at %s is away (%s); trying on", redacted(self.url), _reason(error))

        try:
            return retry(
                call_again,
                is_transient=_is_away,
                first_delay_s=FIRST_DELAY_S,
                longest_delay_s=LONGEST_DELAY_S,
                patience_s=PATIENCE_S,
                on_failure=warn_once,
            )
        except (SQLAlchemyError, StorageInternalError) as error:
            if not _is_away(error):
                raise
            raise self._given_up(error) from error

    def _given_up(self, error: Exception) -> LedgerUnreachableError:
        return LedgerUnreachableError(
            f"the ledger at {redacted(self.url)} has been away for {PATIENCE_S:g} s ({_reason(error)}); when it is "
            "back, `ssl-sweep resume` goes on with the sweep"
        )


# Optuna's reads, and its writes of a study's own values: each is a transaction that may be repeated
for _name in (
    "create_new_study",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    GET_TRIALS,
):
    setattr(RetryingStorage, _name, partialmethod(RetryingStorage._retried, _name))


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
