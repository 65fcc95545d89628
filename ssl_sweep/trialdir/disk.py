"""Full and read-only disks: recognized in any error, and reported with the folder and the remedy."""

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_sweep.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# messages of SQLite that have other causes too: it needs a journal of its own, for which there is no inode
NO_FILE = ("unable to open database file", "attempt to write a readonly database")
FEW_INODES = 20  # several processes take and free some until the error is looked at
# messages of SQLite and of torch's writer, whose errors have no number
WORDS = ("database or disk is full", "No space left on device", "Disk quota exceeded")


class DiskFull(UserError, OSError):  # noqa: N818 - says what it is
    """No write is possible; the message names the folder, its free space or that it is read-only, and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn any error of the block that a full or read-only disk has caused into a DiskFull that names this folder."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        takes_no_file = _is_read_only(folder) or _has_few_inodes(folder)
        if not is_full(error) and not (takes_no_file and any(_says(each, NO_FILE) for each in _chain(error))):
            raise
        raise DiskFull(errno.ENOSPC, _message(folder)) from error


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, an exhausted quota or a read-only file system has caused an error."""
    return any(each.errno in FULL if isinstance(each, OSError) else _says(each, WORDS) for each in _chain(error))


def message(error: BaseException, folder: Path) -> str:
    """The message for users; it names `folder` unless the error names one."""
    return str(error) if isinstance(error, DiskFull) else _message(folder)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _says(error: BaseException, words: Collection[str]) -> bool:
    return any(each in str(error) for each in words)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _has_few_inodes(folder: Path) -> bool:
    """Whether hardly a further file can be made; a file system that makes inodes as needed counts none."""
    status = os.statvfs(_existing(folder))
    return status.f_files > 0 and status.f_favail < FEW_INODES


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(_existing(folder)).f_flag & os.ST_RDONLY)


def _message(folder: Path) -> str:
    if _is_read_only(folder):
        return (
            f"the file system of {folder} is read-only, maybe after an error of the disk (see `dmesg`); mount it for "
            "writing again, then: ssl-sweep resume NAME"
        )
    usage = shutil.disk_usage(_existing(folder))
    free, total = usage.free / 1e6, usage.total / 1e6
    left = f"{free:,.1f} of {total:,.1f} MB free" + (", but hardly an inode for another file" * _has_few_inodes(folder))
    return (
        f"the disk of {folder} is full, or its quota is used up ({left}); make room "
        "(`ssl-sweep clean NAME` frees what a sweep no longer needs), then: ssl-sweep resume NAME"
    )
