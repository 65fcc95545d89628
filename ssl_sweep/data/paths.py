"""Paths that a spec names, and paths that stand inside a data set: these stay inside of it."""

import os
from pathlib import Path

from ssl_sweep.data.images import DataError


def path_of(written: str, root: Path, place: str) -> Path:
    """The path that stands at `place` of a spec, which may not exist; a relative one is below `root`.

    Raises DataError where no file can have the name, or where it may not be looked for.
    """
    try:
        path = root / Path(written).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except RuntimeError:
        user = Path(written).parts[0]
        raise DataError(f"{place}: {written!r}: the home of {user} is not known here; write the full path") from None
    except PermissionError:
        remedy = "let its folders be read, or name another"
        raise DataError(f"{place}: {written!r}: your permissions do not let you read {path}; {remedy}") from None
    except (OSError, ValueError) as error:  # too long, links in a circle, a zero byte
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{place}: {written!r} cannot be opened ({why}); name another file or folder") from None
    return path


def below(written: str, folder: Path, *also: Path) -> str:
    """The file of a path that is relative to `folder` or absolute.

    Raises ValueError where it is neither below `folder` nor below one of `also`.
    """
    file = os.path.normpath(folder / written)
    if not any(Path(file).is_relative_to(base) for base in (folder, *also)):
        raise ValueError(f"its path {written!r} leads out of {folder}")
    return file
