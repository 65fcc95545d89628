"""A disk that is full: told apart from every other error, wherever it shows, and put in words that help."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_sweep.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
# as SQLite and as torch's writer put it, whose errors have no number
WORDS = ("database or disk is full", "No space left on device", "Disk quota exceeded")


class DiskFull(UserError, OSError):  # noqa: N818 - says what it is
    """There is no room for what must be written; the message names the folder, what is free there, and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Name the folder and the remedy where the block finds its disk full. Raises DiskFull."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFull(errno.ENOSPC, _in_words(folder)) from error


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a quota, is at the bottom of an error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if not isinstance(error, OSError) and any(words in str(error) for words in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def message(error: BaseException, folder: Path) -> str:
    """What to tell of it; `folder` is named where the error names none."""
    return str(error) if isinstance(error, DiskFull) else _in_words(folder)


def _in_words(folder: Path) -> str:
    usage = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists()))
    free, total = usage.free / 1e6, usage.total / 1e6
    return (
        f"the disk of {folder} is full, or its quota is used up ({free:,.1f} of {total:,.1f} MB free); make room "
        "(`ssl-sweep clean NAME` frees what a sweep no longer needs), then: ssl-sweep resume NAME"
    )
