"""Paths that stand inside a data set: they stay inside of it."""

import os
from pathlib import Path


def below(written: str, folder: Path, *also: Path) -> str:
    """The file of a path that is relative to `folder` or absolute.

    Raises ValueError where it is neither below `folder` nor below one of `also`.
    """
    file = os.path.normpath(folder / written)
    if not any(Path(file).is_relative_to(base) for base in (folder, *also)):
        raise ValueError(f"its path {written!r} leads out of {folder}")
    return file
