"""Waits for an MLflow store in SQLite that another process locks: MLflow itself waits for minutes, then breaks."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir.retry import retry

PATIENCE_S = 60.0
BUSY_S = 5.0  # how long SQLite itself waits, before a message says it
log = logging.getLogger(__name__)


class MlflowLockedError(UserError, TimeoutError):
    """Another process locks MLflow's database for too long."""


def await_unlocked(file: Path) -> None:
    """Return when the file can be read, or is damaged. Raises MlflowLockedError."""

    def warn_once(error: Exception, failures: int) -> None:
        if not failures:
            log.warning("%s is locked by another process; waiting for at most %g s", file, PATIENCE_S)

    try:
        retry(
            lambda failures: _read(file),
            is_transient=_is_locked,
            first_delay_s=0.5,
            longest_delay_s=1.0,
            patience_s=PATIENCE_S,
            on_failure=warn_once,
        )
    except sqlite3.OperationalError:
        remedy = f"end that process (`fuser {file}` names it)"
        raise MlflowLockedError(f"{file} has been locked by another process for {PATIENCE_S:g} s; {remedy}") from None


def _read(file: Path) -> None:
    with closing(sqlite3.connect(file, timeout=BUSY_S)) as connection:
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.DatabaseError as error:
            if _is_locked(error):
                raise


def _is_locked(error: Exception) -> bool:
    return str(error) == "database is locked"
