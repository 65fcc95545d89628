"""Full disks: recognized in any error, and reported with the folder and the remedy."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_sweep.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
# messages of SQLite and of torch's writer, whose errors have no number
NO_FILE = "unable to open database file"  # SQLite, of a journal of its own for which there is no inode either
WORDS = ("database or disk is full", "No space left on device", "Disk quota exceeded")


class DiskFull(UserError, OSError):  # noqa: N818 - says what it is
    """There is no room for a write; the message names the folder, its free space and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn any error of the block that a full disk has caused into a DiskFull that names this folder."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_full(error) and not (NO_FILE in str(error) and _has_no_inode(folder)):
            raise
        raise DiskFull(errno.ENOSPC, _message(folder)) from error


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk or an exhausted quota has caused an error."""
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
    """The message for users; it names `folder` unless the error names one."""
    return str(error) if isinstance(error, DiskFull) else _message(folder)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _has_no_inode(folder: Path) -> bool:
    """Whether no further file can be made; a file system that makes inodes as needed counts none."""
    status = os.statvfs(_existing(folder))
    return status.f_files > 0 and status.f_favail == 0


def _message(folder: Path) -> str:
    usage = shutil.disk_usage(_existing(folder))
    free, total = usage.free / 1e6, usage.total / 1e6
    left = f"{free:,.1f} of {total:,.1f} MB free" + (", but no inode for another file" * _has_no_inode(folder))
    return (
        f"the disk of {folder} is full, or its quota is used up ({left}); make room "
        "(`ssl-sweep clean NAME` frees what a sweep no longer needs), then: ssl-sweep resume NAME"
    )
