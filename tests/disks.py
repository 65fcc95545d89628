"""Takes what a small file system has."""

from contextlib import suppress
from itertools import count
from pathlib import Path


def use_up_inodes(folder: Path) -> Path:
    """Make empty files until there is no inode for another one; the folder that holds them."""
    ballast = folder / "inodes"
    ballast.mkdir()
    with suppress(OSError):
        for number in count():
            (ballast / str(number)).touch()
    return ballast
