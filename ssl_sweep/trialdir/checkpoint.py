"""Atomic save and load of a training loop's state."""

import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from ssl_sweep.trialdir.atomic import durable

DAMAGED = ".damaged"  # suffix of a file that was set aside
State = dict[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint exists but cannot be read."""


def save(path: Path, state: State) -> None:
    """Write `state` atomically; returns when it is on disk."""
    with durable(path) as file:
        torch.save(state, file)


def load(path: Path, device: torch.device) -> State | None:
    """Read a checkpoint; None if there is none.

    Raises:
        CheckpointError: the file is damaged. A resumed trial sets it aside or makes it again.
    """
    if not path.exists():
        return None
    try:
        state: State = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        remedy = "copy it anew where it is a copy, else resume its trial"
        raise CheckpointError(f"{path}: cannot be read ({error}); {remedy}") from error
    return state


def damage(path: Path) -> str | None:
    """How a checkpoint is damaged; None if it is intact or missing.

    Reads the whole file: torch does not verify the checksums that it writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, struct.error) as error:
        return f"cut off or changed on the disk: {error}"
    return f"changed on the disk: checksum of {changed}" if changed is not None else None


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that people can inspect it; `ssl-sweep clean` removes it."""
    return path.replace(path.with_name(path.name + DAMAGED))


def copy(source: Path, target: Path) -> None:
    """Copy a file atomically, in pieces: an encoder may be large."""
    with source.open("rb") as read, durable(target) as written:
        shutil.copyfileobj(read, written)
