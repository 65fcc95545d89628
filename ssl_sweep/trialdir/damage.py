"""Small files that cannot be read: one error for them, which names the file, what is wrong and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from ssl_sweep.errors import UserError

MEND = "`ssl-sweep doctor --mend`, with the same --storage, sets it aside and rebuilds it from what is left"
ASIDE = ".damaged-"  # and a number: the suffix of a file that was set aside


class DamagedFileError(UserError, ValueError):
    """A file of a storage is damaged, is a folder, or may not be read."""


def read_text(path: Path, remedy: str = MEND) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not UTF-8, is a folder, or may not be read.
    """
    with readable(path, remedy):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{path} is not UTF-8 ({error.reason}, byte {error.start}); {remedy}") from error


@contextmanager
def readable(path: Path, remedy: str = MEND) -> Iterator[None]:
    """Turn what the block raises if `path` is no file that this user may read into a DamagedFileError."""
    try:
        yield
    except IsADirectoryError as error:
        raise DamagedFileError(f"{path} is a folder where a file belongs; {remedy}") from error
    except NotADirectoryError as error:
        raise DamagedFileError(f"{path}: a part of this path is a file where a folder belongs; move it away") from error
    except PermissionError as error:
        raise DamagedFileError(f"{path} may not be read or written by this user; change its mode or owner") from error


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to FILE.damaged-N, so that nothing is lost; returns the new path."""
    numbered = (path.with_name(f"{path.name}{ASIDE}{number}") for number in count(1))
    return path.rename(next(each for each in numbered if not each.exists()))
