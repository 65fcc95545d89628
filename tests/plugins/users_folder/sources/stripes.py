"""Stripes in two directions, so many of each: `local/stripes:COUNT`."""

from pathlib import Path

import numpy as np
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, ImageList, Source

SIDE = 16


def open_source(argument: str, *, root: Path, split_seed: int) -> Source:
    if not argument.isdecimal():
        raise DataError(f"local/stripes:{argument}: is no number of images; write local/stripes:40")
    count = int(argument)
    return Source("stripes", {"count": count}, lambda: Contents(images(count), images(count // 4), ("across", "down")))


def images(count: int) -> ImageList:
    labels = np.arange(2 * count, dtype=np.int64) % 2

    def draw(row: int) -> Image.Image:
        rng = np.random.default_rng(row)
        stripes = np.sin(np.arange(SIDE) + rng.uniform(0, 6)) * 100 + 128 + rng.normal(0, 10, (SIDE, SIDE))
        return Image.fromarray((stripes.T if labels[row] else stripes).clip(0, 255).astype(np.uint8))

    return ImageList(labels, lambda row: f"stripes {row}", draw)
