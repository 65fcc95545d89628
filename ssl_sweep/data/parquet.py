"""`parquet:DIR`: image sets as the Hugging Face hub ships them, with several shards per split."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ssl_sweep.data.columnar import Rows, read_splits
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, Source, stat_file
from ssl_sweep.data.shards import find_shards
from ssl_sweep.data.split_names import SplitNames
from ssl_sweep.data.unreadable import readable

LABELS = 3  # raise it when the same files give other class numbers
LAYOUT = "expected train.parquet or train-00000-of-00002.parquet ... and the same for test, here or in data/"


def parquet_folder(name: str, folder: Path, split_seed: int, splits: SplitNames | None) -> Source:
    """Shards of train and test (else validation) in DIR or below it; without a test split, one is held out by seed."""
    train, test, fingerprint, notes = find_shards("parquet", folder, ".parquet", splits)
    if not train:
        raise DataError(f"{folder}: no Parquet file of a train split; {LAYOUT}, or name it by data.splits.train")
    fingerprint = {"kind": "parquet", "labels": LABELS, **fingerprint}
    if not test:
        fingerprint["split_seed"] = split_seed

    def read() -> Contents:
        rows = [Rows(paths, ParquetShard, folder) for paths in (train, test) if paths]
        return read_splits(rows, split_seed)

    return Source(name, fingerprint, read, notes, files=map(stat_file, train + test), folder=folder)


class ParquetShard:
    """A Parquet file, read by row groups: the smallest parts that the format lets one read."""

    def __init__(self, path: Path) -> None:
        from pyarrow.lib import ArrowException  # only these sources need pyarrow
        from pyarrow.parquet import ParquetFile

        opened: Callable[[Path], Any] = ParquetFile
        self._readable = partial(readable, path, "Parquet file", ArrowException)
        with self._readable():
            self._file = opened(path)
            self.schema = self._file.schema_arrow
        self.group_rows = [self._file.metadata.row_group(n).num_rows for n in range(self._file.num_row_groups)]

    def column(self, name: str) -> Any:
        with self._readable():
            return self._file.read([name]).column(0)

    def group(self, number: int, name: str) -> Any:
        with self._readable():
            return self._file.read_row_group(number, [name]).column(0)
