"""`table:FILE`: a CSV, TSV or Parquet file that lists image files, their labels and, if it likes, their splits."""

import csv
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ssl_sweep.data.class_numbers import class_numbers, labels_of_texts, names_of
from ssl_sweep.data.columns import label_values
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, File, ImageList, Source, digest, hold_out_test, stat_file
from ssl_sweep.data.parquet import ParquetShard
from ssl_sweep.data.paths import below
from ssl_sweep.data.split_names import SplitNames, find_splits, fingerprint_of, split_notes
from ssl_sweep.data.unreadable import POINTER, open_image, readable

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img")
LABELS = ("label", "labels", "class", "target", "category")
SPLITS = ("split", "fold", "subset", "set", "partition")
SUFFIXES = (".csv", ".tsv", ".parquet")

Columns = dict[str, list[str]]  # values as text, "" for none


class Row(NamedTuple):
    place: str  # in the table, for messages
    file: str
    label: str
    split: str


class Split(NamedTuple):
    train: list[Row]
    test: list[Row] | None
    fingerprint: dict[str, str | int]
    notes: list[str]


def image_table(name: str, path: Path, root: Path, split_seed: int, splits: SplitNames | None) -> Source:
    """The rows of FILE by its column of splits; without one, or without a test split, a fifth of train is held out.

    Files are relative to FILE's folder, and below it or below `root`.
    """
    train, test, fingerprint, notes = split_rows(path, *read_rows(path, root), splits)
    (train, *tests), repeats = without_repeats([train] if test is None else [train, test])
    test, notes = tests[0] if tests else None, notes + repeats
    rows = [*train, *(test or ())]
    files = {row.file: stat_or_none(row.file) for row in rows}
    notes += missing_notes(path, [row for row in rows if files[row.file] is None], len(files))
    if both := {row.file for row in train} & {row.file for row in test or ()}:
        notes.append(f"{len(both):,} images are in train and in test, such as {min(both)}")
    known = [file or File(missing, -1, 0) for missing, file in files.items()]
    fingerprint |= {"kind": "table", "folder": str(path), "files": digest([stat_file(path), *known], Path())}
    if test is None:
        fingerprint["split_seed"] = split_seed
    return Source(
        name, fingerprint, partial(read, train, test, split_seed, path.parent), notes, files=known, folder=path.parent
    )


def split_rows(path: Path, rows: list[Row], has_splits: bool, names: SplitNames | None) -> Split:
    if not has_splits:
        if names:
            raise DataError(f"data.splits: {path} has no column of splits ({', '.join(SPLITS)}); add one")
        return Split(rows, None, {}, [])
    there = sorted({row.split for row in rows if row.split})
    train, test = find_splits(there, names, path)
    if train is None:
        raise DataError(f"{path}: its splits are {', '.join(there)}; name the one to train on by data.splits.train")
    learned, tested = ([row for row in rows if row.split == split] for split in (train, test))
    notes = split_notes(there, train, test, names)
    if empty := [row for row in rows if not row.split]:
        notes.append(f"{len(empty):,} of {len(rows):,} rows have no split and are not read; see {empty[0].place}")
    return Split(learned, tested if test else None, fingerprint_of(train, test), notes)


def without_repeats(parts: Sequence[Sequence[Row]]) -> tuple[list[list[Row]], list[str]]:
    """Each part with one row for a file, and a note on the others: they would be split between train, val and test.

    Raises:
        DataError: two rows give a file different labels.
    """
    known: dict[str, Row] = {}
    kept: list[list[Row]] = []
    repeats: list[Row] = []
    for part in parts:
        first: dict[str, Row] = {}
        for row in part:
            if (other := known.setdefault(row.file, row)).label != row.label:
                both = f"{row.label!r} here and {other.label!r} at {other.place}"
                raise DataError(f"{row.place}: {row.file} has the label {both}; keep one of the rows")
            if first.setdefault(row.file, row) is not row:
                repeats.append(row)
        kept.append(list(first.values()))
    left = f"{len(repeats):,} rows repeat an earlier one and are left out; see {repeats[0].place}" if repeats else ""
    return kept, [left] if left else []


def read(train: Sequence[Row], test: Sequence[Row] | None, split_seed: int, folder: Path) -> Contents:
    rows = (*train, *(test or ()))
    labels = labels_of_texts([row.label for row in rows], lambda row: rows[row].place)
    classes = names_of(labels[: len(train)])
    images = image_list(train, labels[: len(train)], classes, folder)
    if test is None:
        return Contents(*hold_out_test(images, split_seed), classes)
    return Contents(images, image_list(test, labels[len(train) :], classes, folder), classes)


def image_list(rows: Sequence[Row], labels: Sequence[Any], classes: tuple[str, ...], folder: Path) -> ImageList:
    def name(row: int) -> str:
        return f"{rows[row].place}: {rows[row].file}"

    numbers = class_numbers(labels, classes, None, name)
    return ImageList(
        numbers, name, lambda row: open_image(rows[row].file), lambda row: os.path.relpath(rows[row].file, folder)
    )


def read_rows(path: Path, root: Path) -> tuple[list[Row], bool]:
    """The table's rows, and whether it says their splits."""
    places, columns = read_parquet(path) if path.suffix.lower() == ".parquet" else read_text(path)
    file_column, label_column, split_column = (find_column(columns, names) for names in (PATHS, LABELS, SPLITS))
    if file_column is None:
        remedy = f"write a line of names first, and call the one of the image files {PATHS[0]!r}"
        raise DataError(f"{path}: no column of image files among {', '.join(columns) or 'none'}; {remedy}")
    if not places:
        raise DataError(f"{path}: lists no images; add a row for each")
    none = [""] * len(places)
    values = [columns[column] if column else none for column in (file_column, label_column, split_column)]
    rows = [
        Row(place, file_of(place, written, path, root), label, split)
        for place, written, label, split in zip(places, *values, strict=True)
    ]
    return rows, split_column is not None


def file_of(place: str, written: str, path: Path, root: Path) -> str:
    if not written:
        raise DataError(f"{place}: names no file; write one or remove the row")
    try:
        return below(written, path.parent, root)
    except ValueError as error:
        both = os.path.commonpath([os.path.normpath(path.parent / written), path.parent])
        raise DataError(f"{place}: {error}; set SSL_SWEEP_DATA={both}, or move the table") from None


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    lowered = {column.strip().lower(): column for column in columns}
    return next((lowered[name] for name in names if name in lowered), None)


def check_unique(path: Path, columns: Iterable[str]) -> None:
    """Refuse two columns of one name that may be that of files, labels or splits: either could be meant."""
    known: dict[str, str] = {}
    for column in columns:
        name = column.strip().lower()
        if name in known and name in (*PATHS, *LABELS, *SPLITS):
            raise DataError(f"{path}: has columns {known[name]!r} and {column!r}; rename or remove the one not to use")
        known[name] = column


def read_text(path: Path) -> tuple[list[str], Columns]:
    """The place of each row, and its values by column."""
    with readable(path, "table", csv.Error, ValueError), path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        if first.encode().startswith(POINTER):
            raise ValueError
        file.seek(0)
        lines = csv.reader(file, delimiter=delimiter(path, first), strict=True)
        header = next(lines, [])
        check_unique(path, header)
        places, rows = [], []
        for line in lines:
            if not line:
                continue
            place = f"{path}:{lines.line_num}"
            if len(line) != len(header):
                remedy = "put values with the separator in them into double quotes"
                raise DataError(f"{place}: has {len(line)} values, and the header has {len(header)}; {remedy}")
            places.append(place)
            rows.append(line)
    return places, {name: [row[index].strip() for row in rows] for index, name in enumerate(header)}


def delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",;\t", key=header.count)


def read_parquet(path: Path) -> tuple[list[str], Columns]:
    shard = ParquetShard(path)
    check_unique(path, shard.schema.names)
    wanted = [name for name in shard.schema.names if name.lower() in (*PATHS, *LABELS, *SPLITS)]
    places = [f"{path} row {row}" for row in range(sum(shard.group_rows))]
    columns = {name: [text_of(value) for value in shard.column(name).to_pylist()] for name in wanted}
    if (labels := find_column(wanted, LABELS)) and places:
        values = label_values(shard.column(labels), labels, places.__getitem__)
        columns[labels] = [text_of(value) for value in values]
    return places, columns


def text_of(value: object) -> str:
    return "" if value is None or value != value else str(value)


def stat_or_none(file: str) -> File | None:
    try:
        return stat_file(file)
    except OSError:
        return None


def missing_notes(path: Path, missing: Sequence[Row], total: int) -> list[str]:
    """A note on rows whose files are not there. Raises DataError if none is: then the folder is another."""
    if not missing:
        return []
    first = f"{missing[0].place}: {missing[0].file}"
    if len({row.file for row in missing}) == total:
        raise DataError(f"{first} is missing, as is every other file; paths start at {path.parent}, the table's folder")
    return [f"{len(missing):,} of {total:,} files missing; the first is {first}"]
