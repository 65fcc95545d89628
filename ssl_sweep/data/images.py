"""A batch of images of unequal size, and the error for bad data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, NamedTuple, ParamSpec, Protocol, overload

import torch
from torch import Generator, Tensor

from ssl_sweep.errors import UserError

P = ParamSpec("P")


class DataError(UserError, ValueError):
    """The data is missing, damaged or misnamed; the message names the place, the value and the remedy."""


class AbsentDataError(DataError):
    """There is no such folder or file, or the set is not downloaded: it may be elsewhere, and right there."""


class ImageSet(Protocol):
    """A split of a data set: a pack, or a part of one."""

    def __len__(self) -> int: ...

    def __hash__(self) -> int: ...

    def batch(self, indices: Tensor) -> "Images":
        """The images at `indices` (B,), in any order, with repeats."""


class Images(NamedTuple):
    """A global batch of images, or one worker's share of it; each image is in the top left corner of its frame."""

    pixels: Tensor  # (B, 3, H, W) uint8, zeros below and to the right of the smaller images
    sizes: Tensor  # (B, 2) int64, each image's height and width in pixels
    indices: Tensor | None = None  # (B,) int64, each image's number in its pack
    labels: Tensor | None = (
        None  # (B,) int64, -1 for none; for visualizations and metrics by class, or for pairs by label
    )
    shard: "Shard | None" = None  # this share's place in the global batch; None: this is the global batch
    whole_set: ImageSet | None = None  # that `indices` count in, for what needs other images than the batch's

    @property
    def global_size(self) -> int:
        """Number N of images in the global batch, the same on every worker."""
        return len(self.all_sizes)

    @property
    def all_sizes(self) -> Tensor:
        """Height and width (N, 2) of every image of the global batch."""
        return self.sizes if self.shard is None else self.shard.all_sizes

    def local_rows(self, values: Tensor) -> Tensor:
        """The rows of these images in values (N, ...) of the global batch: (B, ...)."""
        return values if self.shard is None else values[self.shard.rows]

    def sampler(self, rng: Generator) -> "RowSampler":
        """Draws random parameters of these images from `rng`."""
        return RowSampler(self, rng)

    def at(self, rows: Tensor) -> "Images":
        """Pixels and sizes of the images at these rows (n,) of the global batch."""
        return Images(self.pixels[rows], self.sizes[rows]) if self.shard is None else self.shard.load(rows)

    def global_batch(self) -> "Images":
        """The global batch, where a share alone is not enough."""
        return self if self.shard is None else self.shard.load(torch.arange(self.global_size))

    def to(self, device: torch.device | str) -> "Images":
        """All tensors on `device`; the copy to an accelerator overlaps with the host when memory is pinned."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        indices, labels = (None if x is None else moved(x) for x in (self.indices, self.labels))
        return Images(moved(self.pixels), moved(self.sizes), indices, labels, self.shard, self.whole_set)


@dataclass(frozen=True)
class Shard:
    """One worker's equal share of a global batch."""

    all_sizes: Tensor  # (N, 2), of every image of the global batch
    rows: slice  # of the share in the global batch
    load: Callable[[Tensor], Images]  # rows (n,) of the global batch -> their images, on the device


class RowSampler:
    """Draws for every image of the global batch and returns the rows of the local images.

    Workers with equal generators draw equal numbers, and each keeps its own rows: an image has the same random
    parameters, and the generator the same state afterwards, however many workers share the batch.
    """

    def __init__(self, images: Images, rng: Generator) -> None:
        self.images, self.rng = images, rng

    @overload
    def __call__(
        self, draw: Callable[Concatenate[int, Generator, P], Tensor], *args: P.args, **kwargs: P.kwargs
    ) -> Tensor: ...
    @overload
    def __call__(
        self, draw: Callable[Concatenate[int, Generator, P], tuple[Tensor, ...]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Tensor, ...]: ...
    def __call__(
        self,
        draw: Callable[Concatenate[int, Generator, P], Tensor | tuple[Tensor, ...]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Tensor | tuple[Tensor, ...]:
        """The local rows of `draw(N, rng, ...)`, which returns a tensor (N, ...) or several."""
        drawn = draw(self.images.global_size, self.rng, *args, **kwargs)
        if isinstance(drawn, Tensor):
            return self.images.local_rows(drawn)
        return tuple(self.images.local_rows(values) for values in drawn)

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1): (B, *shape)."""
        return self(lambda count, rng: torch.rand(count, *shape, generator=rng, device=rng.device))

    def randn(self, *shape: int) -> Tensor:
        """Standard normal: (B, *shape)."""
        return self(lambda count, rng: torch.randn(count, *shape, generator=rng, device=rng.device))
