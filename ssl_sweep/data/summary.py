"""What `ssl-sweep plan` says of a sweep's images, from their lists: nothing is decoded."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ssl_sweep.data.doubts import doubts
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Source, is_held_out
from ssl_sweep.data.pack import choose_classes
from ssl_sweep.data.splits import (
    NAMES,
    Data,
    check_sides,
    divide,
    labelled_data,
    named_labelled,
    named_source,
    open_data,
    sample,
)


@dataclass(frozen=True)
class Summary:
    """The size of each split; corrupt images are counted, since only decoding finds them."""

    train_images: int  # that a method sees
    val_images: int
    test_images: int
    classes: int
    unlabelled: int  # images of all splits without a label
    lacking: tuple[str, ...]  # splits in which no image has a label: train, val, test
    warnings: tuple[str, ...]  # where the set looks wrong
    source: Source = field(compare=False, repr=False)
    labelled: "Summary | None" = None  # of `data.labelled`: what evaluations see in place of these


def summarize(data: Data, *, root: Path) -> Summary:
    """The splits that `load_splits` would make.

    Raises:
        AbsentDataError: a source is not here, or not downloaded.
        DataError: a source is damaged, or does not fit the section; the message begins with the key.
    """
    with named_source():
        return _summarize(data, root)


def _summarize(data: Data, root: Path) -> Summary:
    check_sides(data)
    source = open_data(data, root=root)
    classes = source.classes
    train, test = (torch.from_numpy(images.labels) for images in (source.train, source.test))
    if data.labelled is not None:
        train = torch.cat([train, test]) if is_held_out(source) else train
        seen = train[sample(train, torch.arange(len(train)), data)]
        with named_labelled():
            labelled = summarize(labelled_data(data), root=root)
        return replace(_summary((seen, seen[:0], seen[:0]), classes, source), labelled=labelled)
    if data.classes is not None:
        (_, train), (_, test) = (choose_classes(labels, classes, data.classes) for labels in (train, test))
        classes = data.classes
    kept, held = divide(train, data)
    return _summary((train[kept], train[held], test), classes, source)


def require_labels(source: Source) -> None:
    """Raises DataError if no training or no test image of `source` has a label."""
    for split, images in (("training", source.train), ("test", source.test)):
        if not bool((images.labels >= 0).any()):
            raise DataError(f"no {split} image of {source.name!r} has a label; name a set with labels")


def _summary(splits: tuple[Tensor, Tensor, Tensor], classes: tuple[str, ...], source: Source) -> Summary:
    nothing_held = len(splits[2]) > 0 and not len(splits[1])  # data.val_fraction is 0
    lacking = tuple(
        name
        for name, labels in zip(NAMES, splits, strict=True)
        if not bool((labels >= 0).any()) and not (name == "val" and nothing_held)
    )
    unlabelled = int((torch.cat(splits) < 0).sum())
    train, val, test = map(len, splits)
    warnings = (*source.notes, *doubts(torch.cat(splits[:2]), splits[2], classes))
    return Summary(train, val, test, len(classes), unlabelled, lacking, warnings, source)
