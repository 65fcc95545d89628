"""Which parts of a set are its train and its test split: folders, files or values, by their names."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ssl_sweep.data.images import DataError

SplitNames = Mapping[Literal["train", "test"], str]  # `data.splits`

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "val", "valid", "validation")


def find_splits(
    there: Collection[str], names: SplitNames | None, place: Path, *, loosely: bool = False
) -> tuple[str | None, str | None]:
    """The names of train and test among those that are there: as `names` says, else the first usual one, in any case.

    loosely: where no name is usual, a longer one that begins or ends with such a word will do, `imagenet-train`.

    Raises DataError if a name of `names` is not there, or if several names could be meant.
    """
    names = names or {}
    wanted = {split: named(split, name, there, place) for split, name in names.items()}
    free = [name for name in there if name not in wanted.values()]
    train = wanted.get("train") or usual(TRAIN_NAMES, free, place, loosely)
    test = wanted.get("test") or usual(TEST_NAMES, [name for name in free if name != train], place, loosely)
    if train is not None and train == test:
        raise DataError(f"data.splits: train and test are both {train!r} of {place}; name two parts of it")
    return train, test


def named(split: str, name: str, there: Collection[str], place: Path) -> str:
    if (found := in_any_case(name, there, place)) is None:
        listed = f"there are {', '.join(sorted(there))}" if there else "it has no parts to name"
        raise DataError(f"data.splits.{split}: {place} has no {name!r}; {listed}")
    return found


def usual(names: Sequence[str], there: Collection[str], place: Path, loosely: bool) -> str | None:
    found = next(filter(None, (in_any_case(name, there, place) for name in names)), None)
    if found or not loosely:
        return found
    for name in names:
        like = sorted(each for each in there if re.search(rf"^{name}[^a-z]|[^a-z]{name}$", each.lower()))
        if len(like) > 1:
            remedy = f"say which one by data.splits: {{{names[0]}: {like[0]}}}"
            raise DataError(f"{place}: {' and '.join(like)} could each be the {names[0]} split; {remedy}")
        if like:
            return like[0]
    return None


def in_any_case(name: str, there: Collection[str], place: Path) -> str | None:
    if name in there:
        return name
    found = sorted(other for other in there if other.lower() == name.lower())
    if len(found) > 1:
        raise DataError(f"{place}: has {' and '.join(found)}; name the one to read by data.splits")
    return found[0] if found else None


def fingerprint_of(train: str | None, test: str | None) -> dict[str, str | int]:
    """The part of a fingerprint that the names of the splits are; usual names show in those of the files."""
    usual_names = {*TRAIN_NAMES, *TEST_NAMES, None}
    return {"splits": f"{train}/{test}"} if {train, test} - usual_names else {}


def split_notes(there: Collection[str], train: str | None, test: str | None, names: SplitNames | None) -> list[str]:
    """What a user may not expect of the splits: which part stands in for test, and which parts are not read."""
    notes = []
    if test is not None and test.lower() != "test" and "test" not in (names or {}):
        notes.append(f"there is no test split; {test} serves as test")
    if train is not None and (unread := sorted(set(there) - {train, test})):
        verb = "is" if len(unread) == 1 else "are"
        notes.append(f"{', '.join(unread)} {verb} not read; validation images are split off {train}")
    return notes
