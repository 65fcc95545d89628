"""Images for the checks: made, not read."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from ssl_sweep.data.class_numbers import UNLABELLED
from ssl_sweep.data.images import Images
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Splits

SIDE = 8  # pixels of the flat-coloured images
CLASSES = 4
Labels = Literal["colours", "meaningless", "none"]
COLOURS = [[200, 30, 30], [30, 200, 30], [30, 30, 200], [120, 120, 120]]


def photographs(count: int) -> Pack:
    """Labelled images of random pixels, by turns 16 and 20 high and 24 wide."""
    pixels = torch.randint(256, (count, 3, 20, 24), dtype=torch.uint8, generator=Generator().manual_seed(1))
    heights = [16 if row % 2 == 0 else 20 for row in range(count)]
    images = [image[:, :height] for image, height in zip(pixels, heights, strict=True)]
    return pack(images, torch.arange(count) % 2, ("a", "b"))


def batch(count: int, *, labelled: bool = True) -> Images:
    """The first photographs as one batch."""
    images = photographs(count).batch(torch.arange(count))
    return images if labelled else images._replace(labels=torch.full((count,), UNLABELLED))


def flat_colours(labels: Labels = "colours") -> Splits:
    """160 images to train on, 200 each for validation and testing.

    Other sources that an evaluation opens are the same images, and always labelled.
    """
    others: Labels = "colours" if labels == "none" else labels
    train, val, test = (_coloured(count, seed, labels) for seed, count in enumerate((160, 200, 200)))
    return Splits(train, val, test, image_size=SIDE, open_other=lambda source: flat_colours(others))


def _coloured(count: int, seed: int, kind: Labels) -> Pack:
    rng = Generator().manual_seed(seed)
    shown = torch.arange(count) % CLASSES
    noise = torch.randint(-25, 26, (count, 3, SIDE, SIDE), generator=rng)
    pixels = (torch.tensor(COLOURS)[shown][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    if kind == "none":
        return pack(list(pixels), torch.full((count,), UNLABELLED), ())
    labels = torch.randint(CLASSES, (count,), generator=rng) if kind == "meaningless" else shown
    return pack(list(pixels), labels, tuple("abcd"))


def pack(images: Sequence[Tensor], labels: Tensor, classes: tuple[str, ...]) -> Pack:
    """A pack of images (3, H, W) in memory; labels (N,)."""
    sizes = np.array([image.shape[1:] for image in images], dtype=np.int64)
    pixels = torch.cat([image.flatten() for image in images]).numpy()
    return Pack(pixels, sizes, labels, classes, ())
