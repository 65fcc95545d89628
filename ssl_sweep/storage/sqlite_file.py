"""Checks the file of an SQLite database before it is opened: to SQLite an empty or missing file is a new database."""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from ssl_sweep.trialdir.damage import DamagedFileError, set_aside
from ssl_sweep.trialdir.journal import JOURNAL

REMEDY = "restore it from a backup, or: `ssl-sweep doctor --mend`, with the same --storage, sets it aside and "


def check_file(path: Path, tables: Collection[str], mends: str, *, is_needed: bool = False) -> None:
    """Check that a database is whole as far as its header and its list of tables tell, or is new.

    Args:
        path: the file.
        tables: some that it must have, unless it is being made.
        mends: what `doctor --mend` does about it, for the message.
        is_needed: whether every storage with sweeps has it.

    Raises:
        DamagedFileError: it is damaged, or is empty, or missing although needed, beside the folders of sweeps.
    """
    problem = _problem(path, tables) if is_needed or path.exists() else None
    if problem is not None:
        raise damaged(path, problem, mends)


def quick_check(path: Path) -> str | None:
    """What SQLite finds wrong when it reads all pages of a database; None if nothing."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
        except sqlite3.DatabaseError as error:
            return str(error)
    return None if found == ["ok"] else "; ".join(found)


def put_aside(path: Path) -> Path:
    """Rename a database with its journals, which must not reach a new one of its name; returns its new path."""
    aside = set_aside(path)
    for suffix in ("-wal", "-shm", "-journal"):
        if (journal := path.with_name(path.name + suffix)).exists():
            journal.rename(aside.with_name(aside.name + suffix))
    return aside


def damaged(path: Path | str, problem: str, mends: str) -> DamagedFileError:
    """The error of a damaged database."""
    return DamagedFileError(f"{path} {problem}; {REMEDY}{mends}")


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite has found a file to be damaged, by an exception or one of its causes."""
    while error is not None:
        if type(error) is sqlite3.DatabaseError:  # other errors have classes of their own
            return True
        error = error.__cause__ or error.__context__
    return False


def _problem(path: Path, tables: Collection[str]) -> str | None:
    if not path.exists():
        return "is gone" if _has_sweeps(path.parent) else None
    if path.is_dir():
        return "is a folder where a database belongs"
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        return "may not be read by this user: change its mode or owner"
    if path.stat().st_size == 0:  # to open and close it here would release SQLite's locks of this process
        return "is empty" if _has_sweeps(path.parent) else None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:  # locked by a writer, say: whoever opens it next waits, and tells
        return None
    except sqlite3.DatabaseError as error:
        return f"is damaged ({error})"
    lacking = [name for name in tables if name not in found]
    return f"lacks the table {lacking[0]}" if lacking and _has_sweeps(path.parent) else None


def _has_sweeps(folder: Path) -> bool:
    """Whether trials have begun in the sweeps of a folder; they are in its databases by then."""
    return any(True for _ in folder.glob(f"*/trials/*/{JOURNAL}"))
