"""Where a labelled set looks wrong, from the numbers of its images by class: `ssl-sweep plan` says it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def doubts(train: Tensor, test: Tensor, classes: Sequence[str]) -> list[str]:
    """What a user should look at before the sweep runs.

    Args:
        train: class numbers (N,) of all images that are trained on or validated on; -1 for none.
        test: class numbers (M,) of the test images, in the same way.
        classes: the names of the classes.
    """
    train, test = train[train >= 0], test[test >= 0]
    if not len(classes) or not len(train):
        return []
    if len(classes) == 1:
        return [f"there is one class only, {classes[0]!r}: scores by label say nothing"]
    if len(classes) > len(train):
        return [f"{len(classes):,} classes for {len(train):,} labelled training images: are the labels identifiers?"]
    learned, tested = (torch.bincount(labels, minlength=len(classes)) for labels in (train, test))
    found = [
        (learned == 0, "no training image"),
        (learned == 1, "a single training image, and none to validate on"),
        ((learned > 0) & (tested == 0) & bool(len(test)), "no test image"),
    ]
    return [*_alike(classes), *(_said(which, classes, lack) for which, lack in found if bool(which.any()))]


def _alike(classes: Sequence[str]) -> Iterator[str]:
    known: dict[str, str] = {}
    for name in classes:
        if (other := known.setdefault(name.casefold().strip(), name)) != name:
            yield f"the names of classes {other!r} and {name!r} differ in case or spaces only: are they one class?"


def _said(which: Tensor, classes: Sequence[str], lack: str) -> str:
    rows = which.nonzero().flatten().tolist()
    if len(rows) == 1:
        return f"class {classes[rows[0]]!r} has {lack}"
    return f"{len(rows):,} of {len(classes):,} classes have {lack}, such as {classes[rows[0]]!r}"
