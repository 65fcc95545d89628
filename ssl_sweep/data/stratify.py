"""Random splits and subsets that keep every class's share."""

import torch
from torch import Tensor


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers (kept, held), both ascending; `held` is `fraction` of the rows, and nearly so of each class.

    labels: (N,) int64; images without one (-1) are split as a class of their own. Every class keeps at least one row,
    so `held` is smaller than requested for tiny classes. The same labels, fraction and seed give the same split on
    every machine.
    """
    labels = _from_zero(labels)
    rng = torch.Generator().manual_seed(seed)
    quota = held_per_class(torch.bincount(labels), fraction, rng)  # (C,)
    order = torch.randperm(len(labels), generator=rng)
    order = order[labels[order].argsort(stable=True)]  # (N,) grouped by class, shuffled inside each
    held = rank_in_class(labels[order]) < quota[labels[order]]
    return order[~held].sort().values, order[held].sort().values


def nested_subset(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Ascending rows of `fraction` of labels (N,), stratified by class, with at least one row of each class.

    For the same labels and seed, a smaller fraction's rows are a subset of a larger one's, on every machine.
    """
    labels = _from_zero(labels)
    rng = torch.Generator().manual_seed(seed)
    counts = torch.bincount(labels)  # (C,)
    order = torch.randperm(len(labels), generator=rng)
    order = order[labels[order].argsort(stable=True)]  # (N,) grouped by class, shuffled inside each
    classes = labels[order]
    rank = rank_in_class(classes)
    # a class of n adds its rth image at the fraction (r + u) / n: no class is ever more than one image ahead
    offset = torch.rand(len(counts), generator=rng, dtype=torch.float64)
    enters = (rank + offset[classes]) / counts[classes]
    enters[rank == 0] = 0
    number = max(int((rank == 0).sum()), round(len(labels) * fraction))
    return order[enters.argsort(stable=True)[:number]].sort().values


def held_per_class(counts: Tensor, fraction: float, rng: torch.Generator) -> Tensor:
    """Number of rows of each class to hold out: (C,) int64, by largest remainder.

    Rounding class by class would miss the total: 20 % of Caltech-256's 29,780 images is 5,956 only if the classes
    with the largest remainders are rounded up. Equal remainders are drawn at random, not by name.
    """
    exact = counts.double() * fraction
    most = (counts - 1).clamp(min=0)
    held = torch.minimum(exact.floor().long(), most)
    missing = max(0, round(int(counts.sum()) * fraction) - int(held.sum()))
    drawn = torch.randperm(len(counts), generator=rng)
    order = drawn[(exact - held)[drawn].argsort(descending=True, stable=True)]
    held[order[held[order] < most[order]][:missing]] += 1
    return held


def rank_in_class(grouped: Tensor) -> Tensor:
    """(N,) labels in ascending order -> each row's position inside its class, from 0."""
    counts = torch.bincount(grouped)
    starts = counts.cumsum(0) - counts
    return torch.arange(len(grouped)) - starts[grouped]


def _from_zero(labels: Tensor) -> Tensor:
    """Group numbers (N,) that `bincount` accepts; labels without -1 stay as they are, and so does their split."""
    return labels + 1 if bool((labels < 0).any()) else labels
