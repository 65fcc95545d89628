"""Class names and class numbers of labels as they stand in a file: whole numbers, or names."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ssl_sweep.data.images import DataError

UNLABELLED = -1
MISSING = frozenset({"nan", "NaN", "NA", "N/A", "<NA>", "null", "NULL"})  # as tools write "no label" into text
MISSING_NUMBERS = MISSING | {"None", "none"}  # names, but beside numbers
WHOLE = re.compile(r"-?(0|[1-9]\d{0,14})(\.0*)?")  # 3.0: a column of numbers in which some are missing


def labels_of_texts(written: Sequence[Any], place: Callable[[int], str]) -> list[Any]:
    """Labels as a file has them: its texts become whole numbers if all are, and differ as numbers too; else names.

    So `1`, `01` and `1.0` are three names beside each other. What is no text stays; see `without_missing`.
    """
    written = without_missing(written, place)
    texts = {label for label in written if isinstance(label, str)}
    numbers = {text: int(float(text)) for text in texts if WHOLE.fullmatch(text)}
    unlabelled = {text: UNLABELLED for text, number in numbers.items() if number == UNLABELLED}
    wanted = texts - unlabelled.keys()
    whole = wanted <= numbers.keys() and len({numbers[text] for text in wanted}) == len(wanted)
    known: dict[Any, Any] = (numbers if whole else {text: text for text in texts}) | unlabelled
    return [known[label] if isinstance(label, str) else label for label in written]


def labels_with_names(written: Sequence[Any], names: Sequence[str], place: Callable[[int], str]) -> list[Any]:
    """Labels of a set that has `names` for its numbers: a text is one of them, or no label, which `-1` is too."""
    missing = () if "-1" in names else ("-1",)
    return [UNLABELLED if label in missing else label for label in without_missing(written, place)]


def without_missing(labels: Sequence[Any], place: Callable[[int], str]) -> list[Any]:
    """The labels with None for an empty text, and for `nan`, `NA` and the like where all others are whole numbers.

    Raises DataError for such a word beside names, which may be the name of a class.
    """
    words = {label for label in labels if isinstance(label, str)} - {""}
    names = [word for word in words - MISSING_NUMBERS if not WHOLE.fullmatch(word)]
    for row, label in enumerate(labels):
        if names and isinstance(label, str) and label in MISSING:
            remedy = f"beside {min(names)!r}; leave it empty where there is no label, or give the class another name"
            raise DataError(f"{place(row)}: label {label!r} may be a class or no label, {remedy}")
    missing = {""} if names else {"", *MISSING_NUMBERS}
    return [None if isinstance(label, str) and label in missing else label for label in labels]


def names_of(labels: Iterable[Any]) -> tuple[str, ...]:
    """The names of classes that only their labels name, in order; none where no image has a label."""
    present = {label for label in labels if isinstance(label, str) or (label is not None and label >= 0)}
    ordered = sorted(present, key=lambda label: (isinstance(label, str), label))
    return tuple(dict.fromkeys(str(label) for label in ordered))  # 1 and "1" are the same


def check_forms(classes: Iterable[str], place: str) -> None:
    """Raise DataError for two classes whose names look the same: as composed and as decomposed Unicode, of macOS."""
    known: dict[str, str] = {}
    for name in classes:
        other = known.setdefault(normalize("NFC", name), name)
        if other != name:
            raise DataError(f"{place}: classes {other!a} and {name!a} are one name in two Unicode forms; rename one")


def like(name: str, classes: Iterable[str]) -> str:
    """For a message, the class that differs from an unknown name in case or Unicode form only, if there is one."""
    folded = normalize("NFC", name).casefold()
    found = next((other for other in classes if normalize("NFC", other).casefold() == folded), None)
    return f"; {found!a} is, which differs in case or Unicode form only: rename one" if found else ""


def class_numbers(
    labels: Sequence[Any], classes: Sequence[str], names: Sequence[str] | None, place: Callable[[int], str]
) -> NDArray[np.int64]:
    """(N,) positions in `classes`; -1 for an image without a label.

    Args:
        labels: whole numbers, names, or None and -1 where there is no label.
        classes: the set's.
        names: what the file's whole numbers stand for, by position (`number_names`); None: each is a name itself.
        place: names a row, for errors.

    Raises:
        DataError: a label is not one of the classes.
    """
    known: dict[Any, int] = {name: label for label, name in enumerate(classes)}
    if names is None:
        known |= {int(name): label for label, name in enumerate(classes) if name.isdecimal() and str(int(name)) == name}
    elif tuple(names) == tuple(classes):
        known |= {position: position for position in range(len(classes))}
    else:
        known |= {position: known[name] for position, name in enumerate(names)}
    known |= {None: UNLABELLED, UNLABELLED: UNLABELLED}
    for row, label in enumerate(labels):
        if label not in known:
            remedy = "train and test must have the same classes; -1 or null is an image without a label"
            hint = like(str(label), classes)
            raise DataError(f"{place(row)}: label {label!r} is none of the {len(classes)} classes{hint}; {remedy}")
    return np.array([known[label] for label in labels], dtype=np.int64)


class Named(NamedTuple):
    """Class names by number, and the file that has them."""

    names: tuple[str, ...]
    file: Path


def number_names(own: tuple[str, ...] | None, file: Path, first: Named | None) -> tuple[str, ...] | None:
    """What whole numbers of `file` stand for, by its `own` class names and those of the `first` file that has some.

    Two files may have the same names in another order. Raises DataError when they have different names.
    """
    if own is None or first is None or own == first.names:
        return first.names if first else None
    if apart := sorted(set(own) ^ set(first.names)):
        has, lacks = (file, first.file) if apart[0] in own else (first.file, file)
        raise DataError(f"{has}: has a class {apart[0]!r} that {lacks} lacks; the files of a set have the same classes")
    if len(set(own)) < len(own) or len(own) != len(first.names):
        raise DataError(f"{file}: names a class twice, and in another order than {first.file}; give each its own name")
    return own
