"""Atomic writes: a reader finds either the old file or the whole new one, whenever the process dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ssl_sweep.trialdir.disk import room_in


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; it is on the disk when this returns."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; it is on the disk when this returns."""
    with durable(path) as file:
        file.write(content)


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A file to write; when the block ends, it is on the disk and replaces `path`.

    Raises:
        DiskFull: the disk is full.
    """
    with room_in(path.parent):
        with replacing(path) as partial, partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)  # the rename itself must reach the disk, or a power cut brings the old name back


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which replaces it when the block ends.

    Nothing is flushed to the disk: for copies and for what can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")  # one name: what a killed process left is written over
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # a full disk needs the room


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that new names survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
