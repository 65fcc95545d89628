"""Images decoded once per node into memory-mapped files that all trials share.

A pack is a folder `cache/KEY/`: `meta.json`, and for train and test `pixels.u8` (each image as (3, H, W), one after the
other), `sizes.npy` (N, 2) and `labels.npy` (N,). It is written under a temporary name, under a lock, and renamed when
it is complete and on disk: of two trials that start at once only one decodes, and a killed one leaves no broken pack.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_sweep.data.eval_crop import Crop
from ssl_sweep.data.images import DataError, Images
from ssl_sweep.data.items import Source, is_held_out
from ssl_sweep.data.packing import BOTH, WHOLE, OnError, write_packs
from ssl_sweep.trialdir.atomic import sync_folder
from ssl_sweep.trialdir.disk import room_in
from ssl_sweep.trialdir.locks import locked

FORMAT = 5  # part of the key: raise it when the same images would give other files, pixels or identity
UNUSED_S = 7 * 24 * 3600.0  # without an opening, after which a pack of files that have changed since is removed
STATE = {"files", "lists", "own", "plugin", "labels", "held_out"}  # of a fingerprint: change with files and versions
MAX_NAMED = 20  # classes in a message
PACKS = "the images, which it decodes"  # what others wait for
LARGE_PIXELS = 1024 * 1024  # every image of a batch takes the memory of the largest, so a few of these fill it

log = logging.getLogger(__name__)

Array = NDArray[np.int64]


class Damaged(DataError):  # noqa: N818 - the name says what is wrong
    """A pack's files are incomplete or unreadable."""


class Pack:
    """One split's images, read-only. `skipped` names the corrupt images that were left out of the whole split."""

    labels: Tensor  # (N,) int64, -1 for an image without a label
    classes: tuple[str, ...]
    skipped: tuple[str, ...]
    identity: str  # of the set that was decoded
    eval_crop: Crop | None = None  # how evaluations see the images; None: by the image size

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        sizes: Array,
        labels: Tensor,
        classes: tuple[str, ...],
        skipped: tuple[str, ...],
        identity: str = "",
    ) -> None:
        """pixels: flat, the images of `sizes` (N, 2) one after the other; labels: (N,)."""
        lengths = 3 * sizes.prod(axis=1)
        equal = bool((sizes == sizes[0]).all())
        self._pixels = pixels
        self._sizes = sizes
        self._offsets = lengths.cumsum() - lengths  # (N,)
        self._grid = pixels.reshape(len(sizes), 3, *sizes[0]) if equal else None  # (N, 3, H, W)
        self._rows = np.arange(len(sizes))  # the images of this view
        self.labels = labels
        self.classes = classes
        self.skipped = skipped
        self.identity = identity

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Array:
        """The positions (N,) of the images of this view in the whole split, without those that were skipped."""
        return self._rows

    def sizes(self, indices: Tensor) -> Tensor:
        """Height and width (B, 2) int64 of the images at `indices` (B,)."""
        return torch.from_numpy(self._sizes[self._rows[indices.cpu().numpy()]])

    def batch(self, indices: Tensor) -> Images:
        """The images at `indices` (B,), copied out of the mapping, and their labels; in any order, with repeats."""
        indices = indices.cpu()
        rows = self._rows[indices.numpy()]
        sizes = self._sizes[rows]  # (B, 2)
        pixels = self._padded(rows, sizes) if self._grid is None else self._grid[rows]  # (B, 3, H, W)
        labels = self.labels[indices] if self.classes else None
        return Images(torch.from_numpy(pixels), torch.from_numpy(sizes), indices, labels, whole_set=self)

    def _padded(self, rows: Array, sizes: Array) -> NDArray[np.uint8]:
        pixels = np.zeros((len(rows), 3, *sizes.max(axis=0)), dtype=np.uint8)
        for frame, offset, (height, width) in zip(pixels, self._offsets[rows], sizes, strict=True):
            image = self._pixels[offset : offset + 3 * height * width]
            frame[:, :height, :width] = image.reshape(3, height, width)
        return pixels

    @property
    def positions(self) -> Tensor:
        """(N,) the place of each image in the whole split as it was decoded."""
        return torch.from_numpy(self._rows)

    def subset(self, indices: Tensor) -> "Pack":
        """A view of the images at `indices` (B,), on the same memory."""
        view = copy(self)
        view._rows = self._rows[indices.cpu().numpy()]
        view.labels = self.labels[indices]
        return view

    def seen_by(self, crop: Crop) -> "Pack":
        """A view of the same images, which evaluations see by this crop."""
        view = copy(self)
        view.eval_crop = crop
        return view

    def joined(self, other: "Pack") -> "Pack":
        """A view of the images of both views of one set, in the order of the set."""
        rows = np.concatenate([self._rows, other._rows])
        order = rows.argsort(kind="stable")
        view = copy(self)
        view._rows = rows[order]
        view.labels = torch.cat([self.labels, other.labels])[torch.from_numpy(order)]
        return view

    def only(self, classes: Sequence[str]) -> "Pack":
        """A view of the images of these classes, on the same memory; labels are positions in `classes`."""
        rows, labels = choose_classes(self.labels, self.classes, classes)
        view = self.subset(rows)
        view.labels, view.classes = labels, tuple(classes)
        return view


def labelled(pack: Pack) -> Pack:
    """The images with a label; the pack itself, if all have one."""
    known = pack.labels >= 0
    return pack if bool(known.all()) else pack.subset(known.nonzero().flatten())


def choose_classes(labels: Tensor, known: Sequence[str], wanted: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The rows of labels (N,) whose class is wanted, and their labels as positions in `wanted`; `known` names all."""
    if not known:
        raise DataError("data.classes: these images have no labels; leave it out")
    if unknown := [name for name in wanted if name not in known]:
        there_are = ", ".join(map(repr, known[:MAX_NAMED])) + (", ..." if len(known) > MAX_NAMED else "")
        raise DataError(f"data.classes: {unknown[0]!r} is not a class of these images; there are {there_are}")
    numbers = torch.tensor([known.index(name) for name in wanted])  # (C,)
    rows = torch.isin(labels, numbers).nonzero().flatten()
    return rows, (labels[rows].unsqueeze(1) == numbers).long().argmax(dim=1)


def open_packs(source: Source, cache: Path, *, on_error: OnError, short_side: int | None) -> tuple[Pack, Pack]:
    """Train and test of `source`; decoded into `cache` first, if they are not there yet.

    on_error: a corrupt image raises DataError, or is left out and named in `skipped`. short_side: in pixels; larger
    images are shrunk to it, with their aspect ratio.
    """
    train, test = _open(source, cache, BOTH, on_error, short_side)
    return train, test


def open_whole_pack(source: Source, cache: Path, *, on_error: OnError, short_side: int | None) -> Pack:
    """The training images of `source`, and those that were held out of them by seed; else as `open_packs`."""
    if not is_held_out(source):
        return open_packs(source, cache, on_error=on_error, short_side=short_side)[0]
    return _open(source, cache, WHOLE, on_error, short_side)[0]


def _open(
    source: Source, cache: Path, splits: Sequence[str], on_error: OnError, short_side: int | None
) -> tuple[Pack, ...]:
    folder = cache / pack_name(source, splits, on_error, short_side)
    if not folder.exists():
        write_once(source, folder, splits, on_error, short_side)
    try:
        return tuple(read_pack(folder, split) for split in splits)
    except Damaged as error:  # a truncated copy or a power loss: the images themselves are elsewhere
        log.warning("%s; packing it again", error)
    set_aside(folder, splits)
    write_once(source, folder, splits, on_error, short_side)
    return tuple(read_pack(folder, split) for split in splits)


def pack_name(source: Source, splits: Sequence[str], on_error: OnError, short_side: int | None) -> str:
    """The source's readable name, then a hash of all that determines the pixels, the labels and their order."""
    settled = json.dumps([FORMAT, source.fingerprint, splits, on_error, short_side], sort_keys=True)
    words = re.sub(r"[^A-Za-z0-9]+", "-", source.name)[-40:].strip("-")
    return f"{words}-{hashlib.sha256(settled.encode()).hexdigest()[:16]}"


def write_once(source: Source, folder: Path, splits: Sequence[str], on_error: OnError, short_side: int | None) -> None:
    """Decode into `folder`, unless another process does so while this one waits for the lock."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with room_in(folder.parent), locked(folder.with_name(f"{folder.name}.lock"), PACKS) as turn:
        if folder.exists():
            return
        partial = folder.with_name(f"{folder.name}.partial" if turn == 1 else f"{folder.name}.{turn}.partial")
        if partial.exists():  # its writer was killed: this process holds the lock
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            write_packs(source, partial, splits, on_error, short_side)
        except BaseException:
            shutil.rmtree(partial)  # half a set can be many gigabytes, and the disk may be full
            raise
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(partial)  # this process was stopped for so long that another one has packed the images
        sync_folder(folder.parent)
        remove_earlier(folder)
    warn_of_large_images(folder, short_side)


def remove_earlier(folder: Path) -> None:
    """Remove the packs of this set as it was before its files changed, and those of an earlier version's format.

    Those that were opened lately stay: a trial may have mapped them, and a node may see other times of the same files.
    """
    new = set_of(folder)
    for meta in folder.parent.glob("*/meta.json"):
        with suppress(OSError, ValueError, KeyError):  # another process removes it, or it is damaged
            if meta.parent != folder and meta.parent.stat().st_mtime < time.time() - UNUSED_S:
                old = set_of(meta.parent)
                if old.keys() <= new.keys() and all(new[key] == value for key, value in old.items()):
                    shutil.rmtree(meta.parent)


def set_of(folder: Path) -> dict[str, Any]:
    """What a pack was made of beside the state of the files, and how, which earlier versions did not write."""
    meta = json.loads((folder / "meta.json").read_text())
    fingerprint = {key: value for key, value in meta["fingerprint"].items() if key not in STATE}
    made = {"made": meta["made"]} if "made" in meta else {}
    return {"source": meta["source"], **fingerprint, **made}


def set_aside(folder: Path, splits: Sequence[str]) -> None:
    """Remove a damaged pack, once; trials that have mapped it keep their mapping."""
    with locked(folder.with_name(f"{folder.name}.lock"), PACKS):
        with suppress(Damaged):
            for split in splits:
                read_pack(folder, split)
            return  # another process has packed it again
        damaged = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        with suppress(FileNotFoundError):
            folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def read_pack(folder: Path, split: str) -> Pack:
    path = folder / split / "pixels.u8"
    try:
        meta = json.loads((folder / "meta.json").read_text())
        with suppress(OSError):  # somebody else's
            os.utime(folder)  # it is in use, see `remove_earlier`
        sizes, labels = (np.load(folder / split / f"{name}.npy") for name in ("sizes", "labels"))
        num_bytes = path.stat().st_size
        classes, skipped, identity = tuple(meta["classes"]), tuple(meta["skipped"][split]), meta["identity"]
        expected = int(3 * sizes.prod(axis=1).sum())
    except (ValueError, EOFError, OSError, LookupError, TypeError) as error:
        raise Damaged(f"{folder} is damaged ({error}); remove it and it will be packed again") from error
    if num_bytes != expected:
        raise Damaged(f"{path}: has {num_bytes} bytes, not {expected}; remove {folder}, and it will be packed again")
    pixels = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)  # a plain array: indexing a memmap is slow
    return Pack(pixels, sizes, torch.from_numpy(labels), classes, skipped, identity)


def warn_of_large_images(folder: Path, short_side: int | None) -> None:
    sizes = np.concatenate([np.load(path) for path in folder.glob("*/sizes.npy")])  # (N, 2)
    height, width = sizes[sizes.prod(axis=1).argmax()]
    if short_side is None and height * width > LARGE_PIXELS:
        remedy = "set data.short_side, or whole batches are padded to its size"
        log.warning("%s: the largest image is %d pixels high and %d wide; %s", folder.name, height, width, remedy)
