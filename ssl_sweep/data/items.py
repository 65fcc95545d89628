"""An image set that is listed but not decoded: what every kind of source passes to the pack."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_sweep.data.class_numbers import check_forms
from ssl_sweep.data.images import DataError
from ssl_sweep.data.stratify import stratified_split

SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")  # of macOS's archives, and of Synology's disks
SPECIAL = {  # reading them may wait for ever
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
TEST_FRACTION = 0.2  # for a set without a test split


@dataclass(frozen=True)
class ImageList:
    """Labelled images that are decoded one by one, on access."""

    labels: NDArray[np.int64]  # (N,), -1 for an image without a label
    name: Callable[[int], str]  # an image's name in errors: its file, or its shard and row
    image: Callable[[int], Image.Image]  # called from several threads at once
    key: Callable[[int], str] | None = None  # tells an image from the others of its set, where `name` says more

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: NDArray[np.int64]) -> "ImageList":
        """The images of these rows, in this order."""
        key = self.key
        return ImageList(
            self.labels[rows],
            lambda index: self.name(int(rows[index])),
            lambda index: self.image(int(rows[index])),
            None if key is None else lambda index: key(int(rows[index])),
        )


class Contents(NamedTuple):
    train: ImageList
    test: ImageList
    classes: tuple[str, ...]


class Source:
    """An image set by name. Its lists are read at first use: a set that is already packed costs only its fingerprint.

    `fingerprint` changes whenever the images, their labels or their split may have changed, and with the folder: it is
    the key of the set's pack. `notes` say what a user may not expect of what is read. The set's identity
    (`data/identity.py`) has the names of `files` below `folder` and their sizes.
    """

    def __init__(
        self,
        name: str,
        fingerprint: dict[str, str | int],
        read: Callable[[], Contents],
        notes: Iterable[str] = (),
        *,
        files: Iterable["File"] = (),
        folder: str | Path | None = None,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.notes = tuple(notes)
        self.files = tuple(files)
        self.folder = folder
        self._read = read

    @cached_property
    def contents(self) -> Contents:
        contents = self._read()
        if isinstance(contents, Contents):  # a plugin's code may return anything, which what reads plugins reports
            check_forms(contents.classes, self.name)
        return contents

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


def is_held_out(source: Source) -> bool:
    """Whether the test split of `source` was drawn by seed from images that came as one list."""
    return "split_seed" in source.fingerprint


def put_together(contents: Contents) -> Contents:
    """All images as one list, in which those of the training split come first; none are left to test on."""
    train, test, classes = contents
    labels, count = np.concatenate([train.labels, test.labels]), len(train)
    images = ImageList(
        labels,
        lambda row: train.name(row) if row < count else test.name(row - count),
        lambda row: train.image(row) if row < count else test.image(row - count),
    )
    return Contents(images, images.select(np.arange(0)), classes)


class File(NamedTuple):
    path: str  # not a Path, which costs more than the rest of the listing; every trial lists its set
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int = 0  # changes with the content, also where a copy has kept the other time
    inode: int = 0


def list_files(folder: str | Path, around: tuple[str, ...] = ()) -> Iterator[File]:
    """Every file below `folder`, links followed, in an order that does not depend on the file system.

    Pipes, sockets and devices are no files, whatever their names.

    around: the folders that lead to it, without links. Raises DataError for a link back to one of them, and for a
    folder that cannot be listed.
    """
    real = os.path.realpath(folder)
    if real in around:
        raise DataError(f"{folder}: links to {real}, which it is in, so that its files have no end; remove the link")
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); let its files be read, or remove it"
        ) from error
    for entry in entries:
        if not os.path.isdir(entry.path):
            status = _status(entry.path)
            if stat.S_IFMT(status.st_mode) not in SPECIAL:
                yield _file(entry.path, status)
        elif not is_hidden(entry.name):
            yield from list_files(entry.path, (*around, real))


def is_hidden(folder: str) -> bool:
    """Whether a folder of this name holds what a system has made of the files beside it, such as their thumbnails."""
    return folder.startswith(".") or folder in SYSTEM_FOLDERS


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def stat_file(path: str | Path) -> File:
    """What is known of a file, or of a broken link. Raises DataError for a pipe, a socket or a device."""
    status = _status(path)
    if kind := SPECIAL.get(stat.S_IFMT(status.st_mode)):
        raise DataError(f"{path}: is a {kind} and no file; put a file in its place, or remove what names it")
    return _file(path, status)


def _status(path: str | Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError:
        # A broken link stays in the list: decoding reports it, under the policy for corrupt images.
        return os.lstat(path)


def _file(path: str | Path, status: os.stat_result) -> File:
    return File(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def digest(files: Iterable[File], folder: Path) -> str:
    """A hash of the names of `files` below `folder`, their sizes, times and inodes; contents are not read."""
    start = len(str(folder))
    lines = "".join(
        f"{path[start:]}\0{size}\0{mtime_ns}\0{ctime_ns}\0{inode}\n" for path, size, mtime_ns, ctime_ns, inode in files
    )
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
