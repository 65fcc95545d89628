"""A split's rows in files that have columns, Parquet's or Arrow's: an image column and a label column."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from ssl_sweep.data.class_numbers import (
    UNLABELLED,
    Named,
    class_numbers,
    labels_of_texts,
    labels_with_names,
    names_of,
    number_names,
)
from ssl_sweep.data.columns import class_features, find_columns, label_values
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, ImageList, hold_out_test, stat_file
from ssl_sweep.data.paths import below
from ssl_sweep.data.unreadable import open_image


class File(Protocol):
    """One file's Arrow schema, and the groups of rows that it is read by."""

    schema: Any
    group_rows: list[int]  # the number of rows of each group

    def column(self, name: str) -> Any:
        """A column of all rows."""

    def group(self, number: int, name: str) -> Any:
        """A column of one group's rows."""


def read_splits(splits: Sequence["Rows"], split_seed: int) -> Contents:
    """The images of train and test by the names that a file has for its numbers, or by the labels of train.

    Where train is all, a fifth of it is held out.
    """
    named = next((split.named for split in splits if split.named), None)
    labels = read_labels(splits, named)
    classes = named.names if named else names_of(labels[0])
    images = [split.images(own, classes, named) for split, own in zip(splits, labels, strict=True)]
    train_images, test_images = images if len(images) > 1 else hold_out_test(images[0], split_seed)
    return Contents(train_images, test_images, classes)


def read_labels(splits: Sequence["Rows"], named: Named | None) -> list[list[Any]]:
    """The labels of each split. Texts of all splits are judged together: they are numbers, or names."""
    counts = [sum(map(len, split.labels)) for split in splits]
    written = list(chain.from_iterable(labels for split in splits for labels in split.labels))

    def place(row: int) -> str:
        split = bisect_right(list(accumulate(counts)), row)
        return splits[split].name(row - sum(counts[:split]))

    read = labels_with_names(written, named.names, place) if named else labels_of_texts(written, place)
    return [read[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]


class Group(NamedTuple):
    """A row group: the smallest part of a file that Parquet can read."""

    path: Path
    number: int
    first: int  # its first row in the file
    end: int  # one past its last row in the split


class Rows:
    """The rows of one split in all its files. Row groups are read on access.

    Args:
        paths: the files.
        open_file: opens one of them.
        folder: the set's; images that are not in the files are below it.
    """

    def __init__(self, paths: Sequence[Path], open_file: Callable[[Path], File], folder: Path) -> None:
        self.paths, self.open_file, self.folder = paths, open_file, folder
        files = [open_file(path) for path in paths]
        schemas = {path: file.schema for path, file in zip(paths, files, strict=True)}
        self.image_column, self.label_column = find_columns(schemas)
        self.names = [class_features(schema, path).get(self.label_column or "") for path, schema in schemas.items()]
        self.named = next((Named(names, path) for names, path in zip(self.names, paths, strict=True) if names), None)
        self.groups = list(list_groups(paths, files))
        self._recent: OrderedDict[Group, Any] = OrderedDict()
        self._lock = threading.Lock()

    def images(self, labels: Sequence[Any], classes: tuple[str, ...], named: Named | None) -> ImageList:
        """All images with their `labels` by `classes`, which are the names of the file `named`, if there is one."""
        numbers, start = [], 0
        for path, written, own in zip(self.paths, self.labels, self.names, strict=True):
            names, end = number_names(own, path, named), start + len(written)
            numbers.append(class_numbers(labels[start:end], classes, names, partial(self._name_from, start)))
            start = end
        return ImageList(np.concatenate(numbers), self.name, self.image)

    def name(self, row: int) -> str:
        group, offset = self.locate(row)
        return f"{group.path} row {group.first + offset}"

    def _name_from(self, start: int, row: int) -> str:
        return self.name(start + row)

    def image(self, row: int) -> Image.Image:
        group, offset = self.locate(row)
        value = self.read_group(group)[offset].as_py()
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is not None:
            return open_image(data)
        if path is None:
            raise ValueError("the row holds no image bytes")
        file = below(path, self.folder)
        stat_file(file)  # refuses a pipe, which would be read for ever
        return open_image(file)

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
                self._recent[group] = self.open_file(group.path).group(group.number, self.image_column)
            return self._recent[group]

    @cached_property
    def labels(self) -> list[list[Any]]:
        """The labels of each file's rows as they are written."""
        if not self.groups or not self.groups[-1].end:
            raise DataError(f"{self.paths[0]}: no rows; the download may have been cut short")
        column, start, labels = self.label_column, 0, []
        for path in self.paths:
            file = self.open_file(path)
            rows = sum(file.group_rows)
            place = partial(self._name_from, start)
            labels.append([UNLABELLED] * rows if column is None else label_values(file.column(column), column, place))
            start += rows
        return labels


def list_groups(paths: Sequence[Path], files: Sequence[File]) -> Iterator[Group]:
    end = 0
    for path, file in zip(paths, files, strict=True):
        first = 0
        for number, rows in enumerate(file.group_rows):
            end += rows
            yield Group(path, number, first, end)
            first += rows
