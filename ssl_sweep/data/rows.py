"""Operators for some samples of a batch: select their rows, apply, and write them back."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# 1 MB of float32: on a CPU larger intermediate results take twice the time, in cache misses and page faults
CPU_PART_VALUES = 2**18


def apply_in_order(
    images: Tensor, operators: Sequence[Callable[[Tensor, Tensor], Tensor]], kinds: Tensor, values: Tensor
) -> Tensor:
    """Apply to each of `images` (B, ...) its own operators: step p is operators[kinds[b, p]] at values[b, p]; -1: none.

    Samples that share an operator are processed together.
    """
    # the batch is sorted by the kind of the last step; `owners` has the image's original row for each row
    owners = torch.arange(len(images), device=images.device)
    source, target, spare = images, torch.empty_like(images), torch.empty_like(images)
    for step in range(kinds.shape[1]):
        idle, *groups = rows_of_each(kinds[owners, step] + 1, len(operators) + 1)
        filled = len(idle)
        torch.index_select(source, 0, idle, out=target[:filled])
        for operator, rows in zip(operators, groups, strict=True):
            for part in parts(len(rows), images[0].numel(), images.device):
                selected = rows[part]
                target[filled : filled + len(selected)] = operator(
                    source.index_select(0, selected), values[owners[selected], step]
                )
                filled += len(selected)
        owners = owners[torch.cat([idle, *groups])]
        source, target, spare = target, spare, target
    return source.index_select(0, owners.argsort())


def rows_of_each(kinds: Tensor, num_kinds: int) -> list[Tensor]:
    """For each kind 0..num_kinds-1 the rows of `kinds` (B,) that hold it."""
    is_kind = kinds == torch.arange(num_kinds, device=kinds.device).unsqueeze(1)  # (num_kinds, B)
    counts: list[int] = is_kind.sum(dim=1).tolist()
    return list(torch.split(is_kind.nonzero()[:, 1], counts))  # nonzero goes kind by kind


def change_rows(images: Tensor, rows: Tensor, operator: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """`images` (B, ...) with `operator(images[rows], *values)` in the rows (n,); values (n, ...) are one per row."""
    if len(rows) == 0:
        return images
    images = images.clone()
    for part in parts(len(rows), images[0].numel(), images.device):
        changed = operator(images.index_select(0, rows[part]), *(value[part] for value in values))
        images.index_copy_(0, rows[part], changed)
    return images


def parts(num_images: int, values_each: int, device: torch.device) -> Iterator[slice]:
    """Slices that cover a batch: one, or on a CPU several parts whose float32 values fit the cache."""
    step = max(1, CPU_PART_VALUES // values_each) if device.type == "cpu" else max(1, num_images)
    return (slice(first, first + step) for first in range(0, num_images, step))


def draw_others(batch_size: int, rng: torch.Generator) -> Tensor:
    """For each sample the row of another one (B,) int64, uniform over all others; its own row in a batch of one."""
    rows = torch.arange(batch_size, device=rng.device)
    if batch_size == 1:
        return rows
    return (rows + 1 + torch.randint(batch_size - 1, (batch_size,), generator=rng, device=rng.device)) % batch_size


def draw_bernoulli(batch_size: int, rng: torch.Generator, probability: float) -> Tensor:
    """(B,) bool, each true with `probability`, independently of the others."""
    return torch.rand(batch_size, generator=rng, device=rng.device) < probability


def rows_where(condition: Tensor) -> Tensor:
    """The rows (n,) int64 where `condition` (B,) is true."""
    return condition.nonzero().squeeze(1)
