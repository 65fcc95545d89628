"""The tables of a new database, which several processes may come to make at once."""

import re
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

TRIES, WAIT_S = 5, 0.2
TAKEN = r"already exists|UNIQUE constraint|duplicate key"  # SQLite's words and PostgreSQL's
Made = TypeVar("Made")


def make_tables(make: Callable[[], Made]) -> Made:
    """What `make` gives once the tables are there: who comes second finds them, and tries again."""
    for left in reversed(range(TRIES)):
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not left or not re.search(TAKEN, str(error)):
                raise
            time.sleep(WAIT_S)
    raise AssertionError("unreachable")
