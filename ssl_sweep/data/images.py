"""What the data layer hands out: a batch of images of unequal size, and the error that names bad data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class DataError(ValueError):
    """The data is missing, damaged or misnamed; the message names the place, what was found, and the remedy."""


class Images(NamedTuple):
    """A batch of images, each in the top left corner of its frame; or a worker's share of one, which `batch` is."""

    pixels: Tensor  # (B, 3, H, W) uint8, zeros below and to the right of the smaller images
    sizes: Tensor  # (B, 2) int64, each image's own height and width in pixels
    indices: Tensor | None = None  # (B,) int64, each image's number in its pack: what a method knows it again by
    labels: Tensor | None = None  # (B,) int64, for what is drawn or measured by class, or for pairs by label
    batch: "Batch | None" = None  # what these are a share of; None: these are all

    @property
    def number(self) -> int:
        """Images of the whole batch: so many random numbers are drawn, on every worker the same."""
        return len(self.all_sizes)

    @property
    def all_sizes(self) -> Tensor:
        """Height and width (N, 2) of every image of the whole batch."""
        return self.sizes if self.batch is None else self.batch.sizes

    def own(self, drawn: Tensor) -> Tensor:
        """The rows of these images of what was drawn for the whole batch (N, ...)."""
        return drawn if self.batch is None else drawn[self.batch.rows]

    def at(self, rows: Tensor) -> "Images":
        """Images of the whole batch by their rows (n,), their pixels and sizes."""
        return Images(self.pixels[rows], self.sizes[rows]) if self.batch is None else self.batch.load(rows)

    def everyone(self) -> "Images":
        """The whole batch, for what cannot be made of a share alone."""
        return self if self.batch is None else self.batch.load(torch.arange(self.number))

    def to(self, device: torch.device | str) -> "Images":
        """All tensors on `device`; the copy to an accelerator overlaps with the host when memory is pinned."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        indices, labels = (None if x is None else moved(x) for x in (self.indices, self.labels))
        return Images(moved(self.pixels), moved(self.sizes), indices, labels, self.batch)


@dataclass(frozen=True)
class Batch:
    """A batch of which every worker of a trial has an equal share."""

    sizes: Tensor  # (N, 2), of all its images
    rows: slice  # the worker's own
    load: Callable[[Tensor], Images]  # rows (n,) -> these images, on the device
