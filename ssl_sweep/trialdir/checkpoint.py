"""Atomic save and load of what a training loop needs to go on."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from ssl_sweep.trialdir.atomic import durable

DAMAGED = ".damaged"  # behind the name of a file that was set aside
State = dict[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint is there but cannot be read."""


def save(path: Path, state: State) -> None:
    """Write `state` atomically; it is on the disk when this returns."""
    with durable(path) as file:
        torch.save(state, file)


def load(path: Path, device: torch.device) -> State | None:
    """Read a checkpoint, or None where there is none.

    Raises:
        CheckpointError: the file is damaged; a trial that needs it sets it aside or makes it again when it is resumed.
    """
    if not path.exists():
        return None
    try:
        state: State = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a different type for each way in which a file can be damaged
        remedy = "copy it anew where it is a copy, else resume its trial"
        raise CheckpointError(f"{path}: cannot be read ({error}); {remedy}") from error
    return state


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint that was cut off, or changed on the disk; None where it is whole, or not there.

    Reads all of it: torch itself does not look at the checksums that it writes.
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
    """Give a damaged file another name, for people to look at; `ssl-sweep clean` removes it."""
    return path.replace(path.with_name(path.name + DAMAGED))
