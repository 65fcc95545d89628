"""Class names and class numbers of labels as they stand in a file: whole numbers, or names."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_sweep.data.images import DataError


def names_of(labels: Sequence[Any]) -> tuple[str, ...]:
    """The names of classes that only their labels name, in order."""
    if isinstance(labels[0], str):
        return tuple(sorted(set(labels)))
    return tuple(str(label) for label in range(max(labels) + 1))


def class_numbers(labels: Sequence[Any], classes: Sequence[str], place: Callable[[int], str]) -> NDArray[np.int64]:
    """(N,) positions in `classes`; `place` names a row. Raises DataError for a label that is not one of the classes."""
    known: dict[Any, int] = {label: label for label in range(len(classes))}
    known |= {name: label for label, name in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in known:
            remedy = "train and test must have the same classes, and an unlabelled split (-1) cannot be used"
            raise DataError(f"{place(row)}: label {label!r} is none of the {len(classes)} classes; {remedy}")
    return np.array([known[label] for label in labels], dtype=np.int64)
