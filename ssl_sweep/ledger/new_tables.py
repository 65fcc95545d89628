"""Creates the tables of a new database, which several processes may do at once."""

import re
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from ssl_sweep.trialdir.retry import retry

TRIES, WAIT_S = 5, 0.2
TAKEN = r"already exists|UNIQUE constraint|duplicate key"  # SQLite's words and PostgreSQL's
Made = TypeVar("Made")


def make_tables(make: Callable[[], Made]) -> Made:
    """Call `make`, again if another process has just created the same tables."""
    return retry(
        lambda failures: make(), is_transient=_is_taken, first_delay_s=WAIT_S, longest_delay_s=WAIT_S, max_calls=TRIES
    )


def _is_taken(error: Exception) -> bool:
    """Whether another process made a table first."""
    kinds = (IntegrityError, OperationalError, ProgrammingError)
    return isinstance(error, kinds) and re.search(TAKEN, str(error)) is not None
