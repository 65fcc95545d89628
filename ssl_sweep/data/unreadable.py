"""What is wrong with a file that cannot be read, in words, with the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ssl_sweep.data.images import DataError

POINTER = b"version https://git-lfs.github.com/spec/"  # what Git leaves in place of a file that LFS has not fetched


def open_image(file: str | Path | bytes) -> Image.Image:
    """An image of a file or of its bytes, not decoded yet. Raises OSError that says why it is none."""
    try:
        return Image.open(BytesIO(file) if isinstance(file, bytes) else file)
    except UnidentifiedImageError as error:
        if why := reason(file[: len(POINTER)] if isinstance(file, bytes) else head(file)):
            raise OSError(why) from error
        raise


def reason(start: bytes) -> str | None:
    """Why a file that begins with `start`, and is no longer where that is short, is not what it should be."""
    if start.startswith(POINTER):
        return "a Git LFS pointer stands in its place; fetch the file with `git lfs pull`"
    return None if start else "it is empty, 0 bytes; copy or download it again"


def fault(path: Path) -> str | None:
    """Why the file is not what it should be, if its first bytes tell: it is empty, or a pointer to another."""
    try:
        return reason(head(path))
    except OSError:
        return None


def head(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(POINTER))


@contextmanager
def readable(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the file system's errors, and `errors`, into a DataError that names the file or folder."""
    expected: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except DataError:
        raise
    except expected as error:
        raise DataError(f"{path}: not a readable {what} ({explain(path, error)})") from error


def explain(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "its permissions do not let you; change them, or copy it"
    first = (str(error).splitlines() or [type(error).__name__])[0]
    try:
        return reason(head(path)) or f"{first}; it may be cut short or damaged: copy or download it again"
    except OSError:
        return first
