"""`voc:DIR`: photos with boxes, split by the folder's image sets.

DIR is a folder with `Annotations`, `JPEGImages` and `ImageSets/Main`, or has several such folders, as `VOCdevkit` has
one per year: they are then merged, as in the usual VOC07+12.
"""

import logging
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_sweep.data.identity import identity
from ssl_sweep.data.image_folder import is_image
from ssl_sweep.data.images import AbsentDataError, DataError
from ssl_sweep.data.items import Contents, File, ImageList, Source, digest, stat_file
from ssl_sweep.data.pack import Pack, open_packs
from ssl_sweep.data.paths import path_of
from ssl_sweep.data.splits import Origin
from ssl_sweep.data.unreadable import POINTER, open_image, readable
from ssl_sweep.data.voc import Annotation, OnError, find_annotation, read_annotation

LAYOUT = "expected DIR/Annotations, DIR/JPEGImages and DIR/ImageSets/Main, or DIR/VOCdevkit/VOC2007/ with these"
FLAGS = re.compile(r"(\s+-?[01])+$")
PLACE = "evaluate.detection.source"

log = logging.getLogger(__name__)

TrainSet = Literal["train", "trainval"]
Target = dict[str, Tensor]  # boxes (K, 4), labels (K,) from 1 on, difficult (K,)


class Item(NamedTuple):
    """One image of a set: its VOC folder and its name there."""

    folder: Path
    name: str


class Sets(NamedTuple):
    """The images of each split; without val, it is split off train."""

    train: list[Item]
    val: list[Item] | None
    test: list[Item]


class Listed(NamedTuple):
    """What a source lists, before images are decoded: the images to train on and to test on."""

    name: str  # of the source, with the list that is trained on
    folder: Path
    learned: list[Item]  # train and val in one order, so that all splits share a pack
    val: set[Item] | None  # None: it is split off
    learning: list[Annotation]  # of `learned`
    testing: list[Annotation]


@dataclass(frozen=True)
class BoxedPack:
    """One split's decoded images and their boxes."""

    pack: Pack  # its labels are the numbers of its images' annotations
    annotations: Sequence[Annotation]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pack)

    def batch(self, indices: Tensor) -> tuple[list[Tensor], list[Target]]:
        """Images `indices` (B,), each uint8 (3, H, W) of its own size, and their targets in the same pixels."""
        padded = self.pack.batch(indices)
        images = [
            x[:, :height, :width] for x, (height, width) in zip(padded.pixels, padded.sizes.tolist(), strict=True)
        ]
        rows = self.pack.labels[indices.cpu()].tolist()
        return images, [self._target(self.annotations[row], size) for row, size in zip(rows, padded.sizes, strict=True)]

    def _target(self, annotation: Annotation, size: Tensor) -> Target:
        scale = (size / torch.tensor(annotation.size)).flip(0).repeat(2).float()  # (4,): x, y, x, y
        labels = torch.tensor([self.classes.index(name) + 1 for name in annotation.names], dtype=torch.int64)
        return {"boxes": annotation.boxes * scale, "labels": labels, "difficult": annotation.difficult}


@dataclass(frozen=True)
class BoxedSplits:
    """Training, validation and test images with boxes of `classes`."""

    train: BoxedPack
    val: BoxedPack
    test: BoxedPack
    classes: tuple[str, ...]
    skipped: int  # degenerate boxes that were left out


def load_voc(
    source: str, origin: Origin | None, *, short_side: int, train_set: TrainSet, on_error: OnError
) -> BoxedSplits:
    """The images of `voc:DIR`, decoded into the cache if they are not yet, with their boxes.

    The splits are the set's lists `train.txt`, `val.txt` and `test.txt`. If one of the first two is missing, or
    `train_set` is trainval, validation images are split off by `data.split_seed` and `data.val_fraction`; with a
    fraction of 0 all of both lists are trained on. Without a `test.txt`, `val.txt` is the test split. Damaged images
    follow `data.on_error`.

    Args:
        source: voc:DIR; a relative DIR is below the root of the spec's data.
        origin: how the other splits were opened.
        short_side: in pixels; larger images are shrunk to it, and their boxes with them.
        train_set: train on `train.txt`, or on all but the validation share of `trainval.txt`.
        on_error: a degenerate box raises, or is left out and counted.

    Raises:
        DataError: it is missing or damaged, or a split of it holds no object.
    """
    if origin is None:
        raise DataError(f"{PLACE}: {source!r}: these splits were not opened from a source, so that no other is known")
    listed = read_voc(source, origin.root, train_set=train_set, on_error=on_error)
    learned, val, learning, testing = listed[2:]
    opened = photos(listed)
    origin.check(f"{PLACE}: {source!r}", opened.name, identity(opened))
    opened.name = source  # both lists to train on can be the same photos, which are decoded once
    images, tests = open_packs(opened, origin.cache, on_error=origin.data.on_error, short_side=short_side)
    val = _split_off(learned, origin) if val is None or not origin.data.val_fraction else val
    held = torch.tensor([learned[row] in val for row in images.labels.tolist()])
    classes = tuple(sorted({name for annotation in (*learning, *testing) for name in annotation.names}))
    splits = BoxedSplits(
        BoxedPack(images.subset((~held).nonzero().flatten()), learning, classes),
        BoxedPack(images.subset(held.nonzero().flatten()), learning, classes),
        BoxedPack(tests, testing, classes),
        classes,
        sum(annotation.skipped for annotation in (*learning, *testing)),
    )
    _check(splits, source)
    return splits


def read_voc(source: str, root: Path, *, train_set: TrainSet, on_error: OnError) -> Listed:
    """The lists of `voc:DIR` and every annotation that they name; only the sizes of the images are read.

    The arguments are those of `load_voc`, `root` is its origin's. Raises DataError when it is missing or damaged.
    """
    folder = _folder(source, root)
    sets = image_sets(vocs(folder), train_set)
    learned = sorted({*sets.train, *(sets.val or ())})
    learning, testing = (
        [read_annotation(*item, on_error=on_error) for item in items] for items in (learned, sets.test)
    )
    val = None if sets.val is None else set(sets.val)
    return Listed(f"{source} {train_set}", folder, learned, val, learning, testing)


def vocs(folder: Path) -> list[Path]:
    """The VOC folders that `folder` is or contains, such as `VOCdevkit/VOC2007`."""
    if (folder / "Annotations").is_dir():
        return [folder]
    folders = sorted(path.parent for parent in (folder, folder / "VOCdevkit") for path in parent.glob("*/Annotations"))
    if not folders:
        raise DataError(f"{PLACE}: no VOC folder is in {folder}; {LAYOUT}")
    return folders


def image_sets(folders: Sequence[Path], train_set: TrainSet) -> Sets:
    """The splits by the lists in `ImageSets/Main` of these folders."""
    train, val, trainval, test = (
        {folder: _read_list(folder, name) for folder in folders} for name in ("train", "val", "trainval", "test")
    )
    tests = _all(test.values())
    if not tests:  # as in VOC2012, whose test boxes are not public
        tests, val, trainval = _all(val.values()), {}, train
    either = {folder: trainval[folder] or train[folder] + val.get(folder, []) for folder in folders}
    own_val = train_set == "train" and all(train[folder] and val.get(folder) for folder in folders if either[folder])
    sets = Sets(_all((train if own_val else either).values()), _all(val.values()) if own_val else None, tests)
    for name, items in (("train", sets.train), ("test", sets.test)):
        if not items:
            place = folders[0] / "ImageSets" / "Main" / f"{name}.txt"
            raise DataError(f"{place}: is missing or empty; write the names of the {name} images, one a line")
    for name, items in (("train", sets.train), ("val", sets.val or [])):
        if shared := set(items) & set(sets.test):
            both = min(shared)
            raise DataError(f"{both.folder}: {both.name!r} is listed for {name} and for test; take it off one of them")
    return sets


def _all(lists: Iterable[list[Item]]) -> list[Item]:
    return [item for items in lists for item in items]


def _read_list(folder: Path, name: str) -> list[Item]:
    """The images that the lines of a list name. A missing list has no images."""
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        return []
    return [Item(folder, image) for image in dict.fromkeys(_name(line, folder) for line in _lines(path))]


def _name(line: str, folder: Path) -> str:
    """The name before the columns of -1, 0 and 1 that lists of one class have; it may have spaces, or a suffix."""
    unflagged = FLAGS.sub("", line)
    stems = [stem for stem, suffix in map(os.path.splitext, (line, unflagged)) if is_image(f"x{suffix}")]
    names = (line, unflagged, *stems)
    return next((name for name in names if find_annotation(folder, name).is_file()), unflagged)


def _lines(path: Path) -> list[str]:
    with readable(path, "list of image names, one a line", ValueError):
        text = path.read_text(encoding="utf-8-sig")
        if text.encode().startswith(POINTER):
            raise ValueError
    return [line.strip() for line in text.splitlines() if line.strip()]


def _folder(source: str, root: Path) -> Path:
    kind, _, argument = source.partition(":")
    if kind != "voc" or not argument:
        raise DataError(f"{PLACE}: {source!r} should be written voc:DIR")
    folder = path_of(argument, root, PLACE)
    if not folder.is_dir():
        hint = "give an absolute folder, or one relative to the spec file or SSL_SWEEP_DATA"
        fault = DataError if folder.exists() else AbsentDataError
        raise fault(f"{PLACE}: {source!r}: {folder.absolute()} is not a folder; {hint}")
    return folder.resolve()


def photos(listed: Listed) -> Source:
    """The photos that a source lists, whose labels are the numbers of their annotations."""
    folder, learning, testing = listed.folder, listed.learning, listed.testing
    files = [stat_file(annotation.image) for annotation in (*learning, *testing)]
    fingerprint: dict[str, str | int] = {"kind": "voc", "folder": str(folder), "files": digest(files, folder)}
    for split, annotations in (("train", learning), ("test", testing)):
        names = (File(str(annotation.image), 0, 0) for annotation in annotations)
        fingerprint[split] = digest(names, folder)
    held = {row for row, item in enumerate(listed.learned) if item in (listed.val or ())}
    contents = Contents(_images(learning, held), _images(testing), ())
    return Source(listed.name, fingerprint, lambda: contents, files=files, folder=folder)


def _images(annotations: Sequence[Annotation], held: Collection[int] = ()) -> ImageList:
    """held: the rows of the set's own val split."""

    def key(row: int) -> str:
        image, _, names, boxes, difficult, _ = annotations[row]
        objects = [*zip(names, boxes.tolist(), difficult.tolist(), strict=True)]
        return f"{image} {objects}{' val' if row in held else ''}"

    return ImageList(
        np.arange(len(annotations)),
        lambda row: str(annotations[row].image),
        lambda row: open_image(annotations[row].image),
        key,
    )


def _split_off(items: Sequence[Item], origin: Origin) -> set[Item]:
    if not origin.data.val_fraction:
        return set()
    number = max(1, round(origin.data.val_fraction * len(items)))
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(origin.data.val_seed(origin.seed)))
    return {items[row] for row in order[:number].tolist()}


def _check(splits: BoxedSplits, source: str) -> None:
    for name, split in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if name == "val" and not len(split):  # data.val_fraction is 0
            continue
        if not any((~split.annotations[row].difficult).any() for row in split.pack.labels.tolist()):
            raise DataError(f"{PLACE}: {source!r}: no image of its {name} split has an object; check its image sets")
    if splits.skipped:
        log.warning("%s: left out %d degenerate boxes", source, splits.skipped)
