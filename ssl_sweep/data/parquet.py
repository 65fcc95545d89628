"""`parquet:DIR`: image sets as the Hugging Face hub ships them, with several shards per split."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ssl_sweep.data.class_numbers import UNLABELLED, class_numbers, names_of, number_names
from ssl_sweep.data.columns import class_features, find_image_column, find_label_column, label_values
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, ImageList, Source, hold_out_test
from ssl_sweep.data.shards import find_shards
from ssl_sweep.data.split_names import SplitNames

LABELS = 2  # raise it when the same files give other class numbers
LAYOUT = "expected train.parquet or train-00000-of-00002.parquet ... and the same for test, here or in data/"


def parquet_folder(name: str, folder: Path, split_seed: int, splits: SplitNames | None = None) -> Source:
    """Shards of train and test (else validation) in DIR or below it; without a test split, one is held out by seed."""
    train, test, fingerprint, notes = find_shards("parquet", folder, ".parquet", splits)
    if not train:
        raise DataError(f"{folder}: no Parquet file of a train split; {LAYOUT}, or name it by data.splits.train")
    fingerprint = {"kind": "parquet", "labels": LABELS, **fingerprint}
    if not test:
        fingerprint["split_seed"] = split_seed
    return Source(name, fingerprint, lambda: read(train, test, split_seed), notes)


def read(train: list[Path], test: list[Path], split_seed: int) -> Contents:
    shards = Shards(train)
    classes = shards.class_names()
    images = shards.images(classes, shards)
    if not test:
        return Contents(*hold_out_test(images, split_seed), classes)
    return Contents(images, Shards(test).images(classes, shards), classes)


class Group(NamedTuple):
    """A row group: the smallest part of a file that Parquet can read."""

    path: Path
    number: int
    first: int  # its first row in the file
    end: int  # one past its last row in the split


class Shards:
    """The rows of one split in all its shards. Row groups are read on access."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        files = [open_file(path) for path in paths]
        self.schema = files[0].schema_arrow
        self.image_column = find_image_column(self.schema, paths[0])
        self.label_column = find_label_column(self.schema, paths[0])
        self.names = [class_features(file.schema_arrow).get(self.label_column or "") for file in files]
        self.groups = list(list_groups(paths, files))
        self._recent: OrderedDict[Group, Any] = OrderedDict()
        self._lock = threading.Lock()

    def images(self, classes: tuple[str, ...], train: "Shards") -> ImageList:
        """All images, labelled by `classes`, which `train` has named."""
        numbers, start = [], 0
        for path, labels, own in zip(self.paths, self.labels, self.names, strict=True):
            names = number_names(own, path, train.names[0], train.paths[0])
            numbers.append(class_numbers(labels, classes, names, partial(self._name_from, start)))
            start += len(labels)
        return ImageList(np.concatenate(numbers), self.name, self.image)

    def name(self, row: int) -> str:
        group, offset = self.locate(row)
        return f"{group.path} row {group.first + offset}"

    def _name_from(self, start: int, row: int) -> str:
        return self.name(start + row)

    def image(self, row: int) -> Image.Image:
        group, offset = self.locate(row)
        value = self.read_group(group)[offset].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise ValueError("the row holds no image bytes")
        return Image.open(BytesIO(data))

    def locate(self, row: int) -> tuple[Group, int]:
        """The group of a row, and its place there."""
        index = bisect_right(self.groups, row, key=lambda group: group.end)
        return self.groups[index], row - (self.groups[index - 1].end if index else 0)

    def read_group(self, group: Group) -> Any:
        """The group's image column. Two groups are cached: threads that decode neighbouring rows cross a boundary."""
        with self._lock:
            if group not in self._recent:
                while len(self._recent) > 1:
                    self._recent.popitem(last=False)
                self._recent[group] = open_file(group.path).read_row_group(group.number, [self.image_column]).column(0)
            return self._recent[group]

    @cached_property
    def labels(self) -> list[list[Any]]:
        """The labels of each file's rows."""
        if not self.groups or not self.groups[-1].end:
            raise DataError(f"{self.paths[0]}: no rows; the download may have been cut short")
        column, start, labels = self.label_column, 0, []
        for path in self.paths:
            file = open_file(path)
            rows = file.metadata.num_rows
            place = partial(self._name_from, start)
            labels.append(
                [UNLABELLED] * rows if column is None else label_values(file.read([column]).column(0), column, place)
            )
            start += rows
        return labels

    def class_names(self) -> tuple[str, ...]:
        """The class names of the hub's metadata; without them, the labels in order."""
        return self.names[0] or names_of(chain.from_iterable(self.labels))


def open_file(path: Path) -> Any:
    from pyarrow.parquet import ParquetFile  # only this source needs pyarrow

    opened: Callable[[Path], Any] = ParquetFile
    return opened(path)


def list_groups(paths: list[Path], files: list[Any]) -> Iterator[Group]:
    end = 0
    for path, file in zip(paths, files, strict=True):
        first = 0
        for number in range(file.num_row_groups):
            rows = file.metadata.row_group(number).num_rows
            end += rows
            yield Group(path, number, first, end)
            first += rows
