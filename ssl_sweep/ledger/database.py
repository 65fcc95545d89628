"""The ledger's database: retries while a server cannot be reached, or another process locks the file of an SQLite."""

import json
import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial, partialmethod
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, and_, event, select
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.compat import GET_TRIALS, NOTES
from ssl_sweep.ledger.new_tables import make_tables
from ssl_sweep.storage.database_urls import sqlite_file
from ssl_sweep.storage.layout import POSTGRESQL
from ssl_sweep.storage.sqlite_file import check_file, damaged, is_damage
from ssl_sweep.storage.urls import redacted
from ssl_sweep.trialdir.retry import retry

PATIENCE_S = 300.0  # how long a sweep waits for a server that cannot be reached, or a file that is locked
BUSY_S = 20.0  # how long SQLite itself waits for a lock, before a message says it
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 8.0
TABLES = ("studies", "trials")
MENDS = "makes the ledger anew from the trials' folders"
log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class LedgerUnreachableError(UserError, ValueError):
    """The ledger's database cannot be reached, or was unreachable for too long."""


def open_storage(url: str, *, known: bool = False, is_lost: bool = False) -> "DatabaseStorage":
    """Open the database at an SQLAlchemy URL; a new one gets its tables.

    Args:
        url: of the database.
        known: skip the check of the tables, for which Optuna loads all its migrations (30 ms).
        is_lost: make it anew although there are sweeps beside it.

    Raises:
        LedgerUnreachableError: it cannot be reached, its driver is not installed, or the URL is invalid.
        DamagedFileError: it is a damaged file, or an empty or missing one beside the sweeps that it had.
    """
    try:
        if (file := sqlite_file(url)) is not None and not is_lost:
            check_file(file, TABLES, MENDS, is_needed=True)
        if known:
            with suppress(StorageInternalError):  # unreachable, or without tables: the first read reports it
                return _connect(url, skip_table_creation=True, skip_compatibility_check=True)
        return _patiently(url, lambda _: make_tables(lambda: _connect(url)), _is_locked)
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
        file = sqlite_file(url)
        where = f"at {redacted(url)} cannot be reached" if file is None else f"{file} cannot be opened"
        remedy = "check SSL_SWEEP_LEDGER, that the database is up, and the password (PGPASSWORD for PostgreSQL)"
        if file is not None:
            remedy = "check that its folder is there and can be written, or name another by --storage"
        raise LedgerUnreachableError(f"the ledger {where} ({_reason(error)}); {remedy}") from error


def has_ledger(url: str) -> bool:
    """Whether there can be sweeps: not in a file of SQLite that nobody has made yet. Raises DamagedFileError."""
    with suppress(ArgumentError):  # `open_storage` says what is wrong
        if (file := sqlite_file(url)) is not None:
            check_file(file, TABLES, MENDS, is_needed=True)
            return file.exists()
    return True


def _connect(url: str, **options: Any) -> "DatabaseStorage":
    backend = make_url(url).get_backend_name()
    template = url.replace("{", "{{").replace("}", "}}")  # Optuna calls `format` on it
    if backend == "sqlite":  # sweeps that share a file wait for each other's writes
        storage = DatabaseStorage(template, engine_kwargs={"connect_args": {"timeout": BUSY_S}}, **options)
        event.listen(storage.engine, "handle_error", partial(_tell_damage, url))
        return storage
    arguments = POSTGRESQL if backend == "postgresql" else {}
    return DatabaseStorage(template, engine_kwargs={"pool_pre_ping": True, "connect_args": arguments}, **options)


def _tell_damage(url: str, context: ExceptionContext) -> None:
    """Name the file where SQLite finds that a page is damaged, which may be long after it was opened."""
    if is_damage(context.original_exception):
        raise damaged(sqlite_file(url) or url, f"is damaged ({context.original_exception})", MENDS)


class DatabaseStorage(RDBStorage):
    """A database of studies, of which a server may be restarted: retries what fails meanwhile, for some minutes.

    A driver writes its trials with `transact` only. A write may be committed although its answer is lost.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        weakref.finalize(self, self.engine.dispose)  # a server has few connections: leave none open

    def transact(self, write: Callable[[Connection, bool], Answer]) -> Answer:
        """Run `write` in a transaction; its second argument says that an earlier try may have been committed.

        Raises LedgerUnreachableError.
        """

        def once(again: bool) -> Answer:
            with self.engine.begin() as connection:
                return write(connection, again)

        return _patiently(self.url, once, _is_unreachable)

    def swap_note(self, study: str, name: str, old: Any, new: Any) -> bool:
        """See `Notes.swap`."""
        row = {"study_id": self.get_study_id_from_name(study), "key": name}
        is_row = and_(NOTES.c.study_id == row["study_id"], NOTES.c.key == name)
        old_json, new_json = json.dumps(old), json.dumps(new)

        def swap(connection: Connection, again: bool) -> bool:
            swapped = NOTES.update().where(is_row, NOTES.c.value_json == old_json).values(value_json=new_json)
            if connection.execute(swapped).rowcount:
                return True
            current = connection.execute(select(NOTES.c.value_json).where(is_row)).scalar()
            if current is None and old is None:
                connection.execute(NOTES.insert(), {**row, "value_json": new_json})
                return True
            return again and current == new_json  # an earlier try was committed

        try:
            return self.transact(swap)
        except IntegrityError:  # another process has just inserted the row
            return False

    def _retried(self, name: str, *wiring: Any, **values: Any) -> Any:
        return _patiently(self.url, lambda _: getattr(RDBStorage, name)(self, *wiring, **values), _is_unreachable)


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
    setattr(DatabaseStorage, _name, partialmethod(DatabaseStorage._retried, _name))


def _patiently(url: str, call: Callable[[bool], Answer], is_transient: Callable[[Exception], bool]) -> Answer:
    """Retry a call, which gets whether it is a retry. Raises LedgerUnreachableError."""

    def call_again(failures: int) -> Answer:
        answer = call(failures > 0)
        if failures:
            log.warning("the ledger at %s can be reached again", redacted(url))
        return answer

    def warn_once(error: Exception, failures: int) -> None:
        if not failures:
            what = "is locked by another process" if _is_locked(error) else "cannot be reached"
            log.warning("the ledger at %s %s (%s); retrying for %g s", redacted(url), what, _reason(error), PATIENCE_S)

    try:
        return retry(
            call_again,
            is_transient=is_transient,
            first_delay_s=FIRST_DELAY_S,
            longest_delay_s=LONGEST_DELAY_S,
            patience_s=PATIENCE_S,
            on_failure=warn_once,
        )
    except (SQLAlchemyError, StorageInternalError) as error:
        if not is_transient(error):
            raise
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> LedgerUnreachableError:
    remedy = "when it can, `ssl-sweep resume` continues the sweep"
    if _is_locked(error):
        remedy = (
            f"end the process that locks it (`fuser {sqlite_file(url)}` names it); `ssl-sweep resume` continues a sweep"
        )
    return LedgerUnreachableError(
        f"the ledger at {redacted(url)} could not be reached for {PATIENCE_S:g} s ({_reason(error)}); {remedy}"
    )


def _is_locked(error: Exception) -> bool:
    """Whether another process holds the lock of an SQLite file for longer than SQLite waits."""
    return str(getattr(_cause(error), "orig", "")) in ("database is locked", "database table is locked")


def _is_unreachable(error: Exception) -> bool:
    """Whether the connection failed, not the statement."""
    cause = _cause(error)
    if isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlite_errorcode", None) is not None:
        return _is_locked(error)  # a file of SQLite is at hand or is not
    return isinstance(cause, OperationalError | InterfaceError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def _reason(error: BaseException) -> str:
    cause = _cause(error)
    text = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
    return redacted(text.splitlines()[0])


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
