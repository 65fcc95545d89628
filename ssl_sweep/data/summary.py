"""What `ssl-sweep plan` says of a sweep's images, from their lists: nothing is decoded."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ssl_sweep.data.pack import choose_classes
from ssl_sweep.data.splits import Data, divide, open_data


@dataclass(frozen=True)
class Summary:
    """The size of each split; corrupt images are counted, since only decoding finds them."""

    train_images: int  # that a method sees
    val_images: int
    test_images: int
    classes: int
    unlabelled: int  # images of all splits without a label
    warnings: tuple[str, ...]  # where the set looks wrong


def summarize(data: Data, *, root: Path) -> Summary:
    """The splits that `load_splits` would make. Raises DataError when the source is missing or damaged."""
    source = open_data(data, root=root)
    contents = source.contents
    train, test, classes = (
        torch.from_numpy(contents.train.labels),
        torch.from_numpy(contents.test.labels),
        contents.classes,
    )
    if data.classes is not None:
        (_, train), (_, test) = (choose_classes(labels, classes, data.classes) for labels in (train, test))
        classes = data.classes
    kept, held = divide(train, data)
    unlabelled = int((torch.cat([train, test]) < 0).sum())
    return Summary(len(kept), len(held), len(test), len(classes), unlabelled, source.notes)
