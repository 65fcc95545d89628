"""The nearest images of a whole set in pixel space, computed once."""

from functools import lru_cache

import torch
from torch import Tensor

from ssl_sweep.data.images import ImageSet
from ssl_sweep.data.resample import resample, whole_window

CHUNK = 1024  # images that are compared with all others at a time


@lru_cache(maxsize=2)  # trials that follow each other in a process have the same set
def nearest_images(images: ImageSet, side: int, count: int, device: torch.device) -> Tensor:
    """The `count` nearest of each of the N images, nearest first: their numbers (N, count) int64, on the CPU.

    The distance is Euclidean, between whole images stretched to `side` pixels. It takes memory for N images of that
    size and N² distances' time. A set of fewer than `count` + 1 images has N - 1 neighbours an image.
    """
    numbers = torch.split(torch.arange(len(images)), CHUNK)
    with torch.autocast(device.type, enabled=False):  # bf16 scrambles neighbours
        points = torch.cat([_points(images, some, side, device) for some in numbers])  # (N, 3·S·S)
        return torch.cat([_nearest(points, some.to(device), min(count, len(points) - 1)) for some in numbers])


def _points(images: ImageSet, numbers: Tensor, side: int, device: torch.device) -> Tensor:
    batch = images.batch(numbers).to(device)
    return resample(batch.pixels, whole_window(batch.sizes), side).flatten(1)


def _nearest(points: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Those of points (N, D) nearest to the ones at `numbers` (n,), themselves left out: (n, count)."""
    distances = torch.cdist(points[numbers], points)  # (n, N)
    distances.scatter_(1, numbers.unsqueeze(1), torch.inf)  # also where a duplicate is as near
    return distances.topk(count, dim=1, largest=False).indices.cpu()


def are_nearest(numbers: Tensor, nearest: Tensor) -> Tensor:
    """Whether images are the same, or one among the nearest of the other: (B, B) bool.

    Args:
        numbers: (B,) int64, of the images in their set, also with repeats.
        nearest: (N, count), as `nearest_images` returns it.
    """
    related = torch.zeros(len(numbers), len(numbers), dtype=torch.bool, device=numbers.device)
    for column in nearest[numbers].unbind(1):
        related |= column.unsqueeze(1) == numbers
    return related | related.T | (numbers.unsqueeze(1) == numbers)
