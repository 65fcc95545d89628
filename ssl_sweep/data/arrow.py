"""`arrow:DIR`: an image set as `save_to_disk` of the Hugging Face `datasets` library writes it."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssl_sweep.data.columnar import Rows, read_splits
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, Source, digest, stat_file
from ssl_sweep.data.split_names import SplitNames, find_splits, fingerprint_of, split_notes
from ssl_sweep.data.unreadable import readable

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
SAVE = "save the set with save_to_disk of the library `datasets`: dataset.save_to_disk(DIR)"
END = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's stream format
OPEN_FILES = 4


def arrow_folder(name: str, folder: Path, split_seed: int, splits: SplitNames | None) -> Source:
    """The splits train and test (else validation) of DIR, or its only split, of which a fifth is held out by seed."""
    chosen, fingerprint, notes = choose_splits(folder, splits)
    files = [data_files(split) for split in chosen]
    written = [folder / SPLITS, *(split / name for split in chosen for name in (STATE, INFO))]
    shards = [stat_file(path) for paths in files for path in paths]
    listed = [*shards, *(stat_file(path) for path in written if path.exists())]
    fingerprint |= {"kind": "arrow", "folder": str(folder), "files": digest(listed, folder)}
    if len(chosen) == 1:
        fingerprint["split_seed"] = split_seed

    def read() -> Contents:
        opened = lru_cache(OPEN_FILES)(ArrowShard)
        return read_splits([Rows(paths, opened, folder) for paths in files], split_seed)

    return Source(name, fingerprint, read, notes, files=shards, folder=folder)


def choose_splits(folder: Path, names: SplitNames | None) -> tuple[list[Path], dict[str, str | int], list[str]]:
    """The folders of train and test, or of train alone; their part of the fingerprint, and notes on them."""
    if not names and (folder / STATE).is_file():
        return [folder], {}, []
    there = list_splits(folder)
    if not there and not (folder / STATE).is_file():
        raise DataError(f"{folder}: no {SPLITS} or {STATE} here; {SAVE}")
    train, test = find_splits(there, names, folder)
    if train is None:
        remedy = "name the one to train on by data.splits.train"
        raise DataError(f"{folder}: its splits are {', '.join(there)}; {remedy}")
    folders = [folder / name for name in (train, test) if name is not None]
    return folders, fingerprint_of(train, test), split_notes(there, train, test, names)


def list_splits(folder: Path) -> list[str]:
    """The splits of a set, saved together or one by one. Raises DataError for one that is no folder right here."""
    if not (folder / SPLITS).is_file():
        return sorted(path.parent.name for path in folder.glob(f"*/{STATE}"))
    names = read_json(folder / SPLITS).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) and is_plain(name) for name in names):
        raise DataError(f"{folder / SPLITS}: 'splits' is no list of folders; save the set again")
    return names


def data_files(split: Path) -> list[Path]:
    """The files of a split in the order of its rows. Raises DataError where the order of rows is in another file."""
    if not (split / STATE).is_file():
        raise DataError(f"{split}: no {STATE} here; {SAVE}")
    state = read_json(split / STATE)
    if any(value for key, value in state.items() if key.startswith("_indices")):
        remedy = "save it again by dataset.flatten_indices().save_to_disk(DIR)"
        raise DataError(f"{split}: is a selection or a shuffle of the rows that its files have; {remedy}")
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError):
        names = []
    if not names or not all(isinstance(name, str) and is_plain(name) for name in names):
        raise DataError(f"{split / STATE}: '_data_files' lists no files of this folder; save the set again")
    if missing := [name for name in names if not (split / name).is_file()]:
        raise DataError(f"{split / missing[0]}: is missing, though {STATE} lists it; copy or download it")
    return [split / name for name in names]


def is_plain(name: str) -> bool:
    """The name of a file or folder right here, not a path that may lead elsewhere."""
    return name not in ("", ".", "..") and Path(name).name == name


def read_json(path: Path) -> dict[str, Any]:
    with readable(path, "file of a saved set", ValueError):
        read = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError("it holds no mapping")
        return read


class ArrowShard:
    """A file of Arrow's stream format, mapped into memory; its groups are its record batches."""

    def __init__(self, path: Path) -> None:
        from pyarrow.ipc import open_stream  # only these sources need pyarrow
        from pyarrow.lib import ArrowException, memory_map

        opened: Callable[[Any], Any] = open_stream
        with readable(path, "Arrow file", ArrowException):
            check_end(path)
            self._table = with_features(opened(memory_map(str(path))).read_all(), path.parent / INFO)
        self.schema = self._table.schema
        self.group_rows = [len(chunk) for column in self._table.columns[:1] for chunk in column.chunks]

    def column(self, name: str) -> Any:
        return self._table.column(name)

    def group(self, number: int, name: str) -> Any:
        return self._table.column(name).chunk(number)


def check_end(path: Path) -> None:
    """Raise OSError for a file that is cut short between two batches, which pyarrow reads without a word."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(END)))
        if file.read() != END:
            raise OSError("its end is missing")


def with_features(table: Any, info: Path) -> Any:
    """The table with the class names of `dataset_info.json`, where its own schema has none."""
    metadata = table.schema.metadata or {}
    if b"huggingface" in metadata or not info.is_file():
        return table
    written = json.dumps({"info": {"features": read_json(info).get("features") or {}}})
    return table.replace_schema_metadata({**metadata, b"huggingface": written.encode()})
