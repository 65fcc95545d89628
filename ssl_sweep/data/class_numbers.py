"""Class names and class numbers of labels as they stand in a file: whole numbers, or names."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sweep.data.images import DataError

UNLABELLED = -1
WHOLE = re.compile(r"-?(0|[1-9]\d{0,14})(\.0*)?")  # 3.0: a column of numbers in which some are missing


def labels_of_texts(written: Sequence[Any]) -> list[Any]:
    """Labels as a file has them: its texts become whole numbers if all are, and differ as numbers too; else names.

    So `1`, `01` and `1.0` are three names beside each other. None is for an empty text; what is no text stays.
    """
    texts = {label for label in written if isinstance(label, str) and label}
    numbers = {text: int(float(text)) for text in texts if WHOLE.fullmatch(text)}
    unlabelled = {text: UNLABELLED for text, number in numbers.items() if number == UNLABELLED}
    wanted = texts - unlabelled.keys()
    whole = wanted <= numbers.keys() and len({numbers[text] for text in wanted}) == len(wanted)
    known: dict[Any, Any] = (numbers if whole else {text: text for text in texts}) | unlabelled | {"": None}
    return [known[label] if isinstance(label, str) else label for label in written]


def names_of(labels: Iterable[Any]) -> tuple[str, ...]:
    """The names of classes that only their labels name, in order; none where no image has a label."""
    present = {label for label in labels if isinstance(label, str) or (label is not None and label >= 0)}
    return tuple(str(label) for label in sorted(present, key=lambda label: (isinstance(label, str), label)))


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
    else:
        known |= {position: known[name] for position, name in enumerate(names) if name in known}
    known |= {None: UNLABELLED, UNLABELLED: UNLABELLED}
    for row, label in enumerate(labels):
        if label not in known:
            remedy = "train and test must have the same classes; -1 or null is an image without a label"
            raise DataError(f"{place(row)}: label {label!r} is none of the {len(classes)} classes; {remedy}")
    return np.array([known[label] for label in labels], dtype=np.int64)


def number_names(
    own: tuple[str, ...] | None, file: Path, first: tuple[str, ...] | None, first_file: Path
) -> tuple[str, ...] | None:
    """What whole numbers of `file` stand for, by its `own` class names and those of the set's `first` file.

    Two files may have the same names in another order. Raises DataError when they have different names.
    """
    if own and first and set(own) != set(first):
        apart = min(set(own) ^ set(first))
        has, lacks = (file, first_file) if apart in own else (first_file, file)
        raise DataError(f"{has}: has a class {apart!r} that {lacks} lacks; the splits of a set have the same classes")
    return own or first if first else None
