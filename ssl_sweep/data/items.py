"""An image set that is listed but not decoded: what every kind of source passes to the pack."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_sweep.data.stratify import stratified_split

TEST_FRACTION = 0.2  # for a set without a test split


@dataclass(frozen=True)
class ImageList:
    """Labelled images that are decoded one by one, on access."""

    labels: NDArray[np.int64]  # (N,)
    name: Callable[[int], str]  # an image's name in errors: its file, or its shard and row
    image: Callable[[int], Image.Image]  # called from several threads at once

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: NDArray[np.int64]) -> "ImageList":
        """The images of these rows, in this order."""
        return ImageList(
            self.labels[rows], lambda index: self.name(int(rows[index])), lambda index: self.image(int(rows[index]))
        )


class Contents(NamedTuple):
    train: ImageList
    test: ImageList
    classes: tuple[str, ...]


class Source:
    """An image set by name. Its lists are read at first use: a set that is already packed costs only its fingerprint.

    `fingerprint` changes whenever the images, their labels or their split may have changed. `notes` say what a user may
    not expect of what is read.
    """

    def __init__(
        self, name: str, fingerprint: dict[str, str | int], read: Callable[[], Contents], notes: Iterable[str] = ()
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.notes = tuple(notes)
        self._read = read

    @cached_property
    def contents(self) -> Contents:
        return self._read()

    @property
    def train(self) -> ImageList:
        return self.contents.train

    @property
    def test(self) -> ImageList:
        return self.contents.test

    @property
    def classes(self) -> tuple[str, ...]:
        return self.contents.classes


def hold_out_test(images: ImageList, split_seed: int) -> tuple[ImageList, ImageList]:
    """Split a set that comes as one list into train and test: a fifth of every class, drawn by seed, is for testing."""
    kept, held = stratified_split(torch.from_numpy(images.labels), TEST_FRACTION, split_seed)
    return images.select(kept.numpy()), images.select(held.numpy())


class File(NamedTuple):
    path: str  # not a Path, which costs more than the rest of the listing; every trial lists its set
    size: int  # bytes
    mtime_ns: int


def list_files(folder: str | Path) -> Iterator[File]:
    """Every file below `folder`, links followed, in an order that does not depend on the file system."""
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if not entry.is_dir():
            yield stat_file(entry.path)
        elif not entry.name.startswith("."):
            yield from list_files(entry.path)


def stat_file(path: str | Path) -> File:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        # A broken link stays in the list: decoding reports it, under the policy for corrupt images.
        status = os.lstat(path)
    return File(str(path), status.st_size, status.st_mtime_ns)


def digest(files: Iterable[File], folder: Path) -> str:
    """A hash of the names of `files` below `folder`, their sizes and times; contents are not read."""
    start = len(str(folder))
    lines = "".join(f"{path[start:]}\0{size}\0{mtime_ns}\n" for path, size, mtime_ns in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
