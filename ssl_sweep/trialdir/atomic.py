"""Atomic writes: whenever the process dies, a reader sees either the old file or the complete new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ssl_sweep.trialdir.damage import readable
from ssl_sweep.trialdir.disk import room_in


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; returns when it is on disk."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; returns when it is on disk."""
    with durable(path) as file:
        file.write(content)


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; when the block ends, it is on disk and replaces `path`.

    Raises:
        DiskFull: the disk is full.
    """
    with room_in(path.parent):
        with replacing(path) as partial, partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)  # else a power cut may undo the rename


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; the file replaces `path` when the block ends.

    Nothing is flushed to the disk: use it for copies and for files that can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")  # always the same name: a killed process's file is overwritten
    try:
        yield partial
        with readable(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # frees a full disk


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that new names survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
