"""Which files are the shards of a set's splits: `train-00000-of-00002.parquet`, `train/0000.parquet`, `val-01.tar`."""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import digest, list_files, stat_file
from ssl_sweep.data.split_names import (
    TEST_NAMES,
    TRAIN_NAMES,
    SplitNames,
    find_splits,
    fingerprint_of,
    split_notes,
)

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as in train-{000000..000146}
OF = re.compile(r"[-_.]of[-_.](\d+)(?:-[0-9a-f]{6,})?$")  # the hub once put a hash behind the numbers
NUMBERS = "0123456789-_."
MAX_SHARDS = 100_000

Parts = dict[str, list[Path]]  # shards by the name of their split


class Shards(NamedTuple):
    """The shards of each split, in order; test is empty where a set has none."""

    train: list[Path]
    test: list[Path]
    fingerprint: dict[str, str | int]  # of the files, and of their split where names are unusual
    notes: list[str]


def find_shards(kind: str, folder: Path, suffix: str, names: SplitNames | None) -> Shards:
    """The shards below `folder` whose name, or whose folder's name, is that of a split; `kind` is the source's.

    Numbers at the end of a name do not count: `train-2023` and `train-2024` are both train. `train_small` is train only
    where nothing else is. In `names`, a range in braces stands for its numbers. `train` is empty where there is none.

    Raises DataError if a split of `names` is not there, if several files could be meant, or if a shard is missing.
    """
    parts = list_parts(folder, suffix, names)
    train, test = find_splits(parts, names, folder, loosely=True)
    learned, tested = (parts[name] if name else [] for name in (train, test))
    for shards in (learned, tested):
        check_shards(kind, folder, shards)
    files = digest((stat_file(path) for path in learned + tested), folder)
    fingerprint = {"folder": str(folder), "files": files, **fingerprint_of(train, test)}
    return Shards(learned, tested, fingerprint, split_notes(parts, train, test, names))


def list_parts(folder: Path, suffix: str, names: SplitNames | None) -> Parts:
    files = sorted(Path(file.path) for file in list_files(folder))
    paths = {
        path: path.name.removesuffix(suffix)
        for path in files
        if path.name.endswith(suffix) and not path.name.startswith(".")
    }
    wanted = {stem: name for name in (names or {}).values() for stem in expand(name.removesuffix(suffix))}
    known = {name.lower() for name in (*TRAIN_NAMES, *TEST_NAMES, *wanted.values())}
    parts: Parts = {}
    for path, stem in paths.items():
        parts.setdefault(wanted.get(stem) or part_of(path, stem, folder, known), []).append(path)
    if missing := [stem for stem, name in wanted.items() if stem != name and stem not in paths.values()]:
        raise DataError(
            f"{folder / (missing[0] + suffix)} is missing; copy or download it, or name the shards there are"
        )
    return parts


def expand(name: str) -> Iterator[str]:
    """`train-{08..10}` -> `train-08`, `train-09`, `train-10`; a name without a range is the only one."""
    if (found := RANGE.search(name)) is None:
        yield name
        return
    first, last = found.groups()
    if int(last) - int(first) >= MAX_SHARDS:
        raise DataError(f"{name!r} names over {MAX_SHARDS:,} shards; write the numbers of those there are")
    for number in range(int(first), int(last) + 1):
        yield f"{name[: found.start()]}{number:0{len(first)}}{name[found.end() :]}"


def part_of(path: Path, stem: str, folder: Path, known: Collection[str]) -> str:
    """The name of the split that a shard belongs to: its own without numbers, unless only its folder's is known."""
    own, above = OF.sub("", stem).rstrip(NUMBERS), path.parent.name
    if own.lower() not in known and above.lower() in known and (path.parent != folder or above.lower() in TRAIN_NAMES):
        return above
    return own or above


def check_shards(kind: str, folder: Path, shards: Sequence[Path]) -> None:
    if len(homes := sorted({path.parent for path in shards})) > 1:
        listed = ", ".join(str(home.relative_to(folder)) for home in homes)
        raise DataError(f"{folder}: holds several sets ({listed}); name one of them, as {kind}:{homes[0]}")
    totals = {int(match[1]) for path in shards if (match := OF.search(path.stem))}
    if totals and totals != {len(shards)}:
        raise DataError(f"{shards[0]}: {len(shards)} shards are here of {max(totals)}; download the missing ones")
