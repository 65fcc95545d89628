"""What the data layer hands out: a batch of images of unequal size, and the error that names bad data."""

from typing import NamedTuple

import torch
from torch import Tensor


class DataError(ValueError):
    """The data is missing, damaged or misnamed; the message names the place, what was found, and the remedy."""


class Images(NamedTuple):
    """A batch of images, each in the top left corner of its frame."""

    pixels: Tensor  # (B, 3, H, W) uint8, zeros below and to the right of the smaller images
    sizes: Tensor  # (B, 2) int64, each image's own height and width in pixels
    indices: Tensor | None = None  # (B,) int64, each image's number in its pack: what a method knows it again by
    labels: Tensor | None = None  # (B,) int64, for what is drawn or measured by class, or for pairs by label

    def to(self, device: torch.device | str) -> "Images":
        """All tensors on `device`; the copy to an accelerator overlaps with the host when memory is pinned."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        indices, labels = (None if x is None else moved(x) for x in (self.indices, self.labels))
        return Images(moved(self.pixels), moved(self.sizes), indices, labels)
