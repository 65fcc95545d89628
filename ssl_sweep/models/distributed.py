"""Batches gathered across ranks, so that a loss means the global batch; with one process nothing happens.

Every rank must bring a batch of the same size.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of ranks; 1 when torch.distributed is not in use."""
    return dist.get_world_size() if _in_use() else 1


def rank() -> int:
    """This process's number among the ranks; 0 when torch.distributed is not in use."""
    return dist.get_rank() if _in_use() else 0


def gather(x: Tensor) -> Tensor:
    """Each rank's (B, ...) -> all ranks' (W·B, ...) in rank order, with gradient.

    The gradient of x is the sum over the ranks' losses. DDP then divides by W, so the step descends the mean of
    the ranks' losses, whether each holds its own rows or all of them.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


@torch.no_grad()
def gather_no_grad(x: Tensor) -> Tensor:
    """Each rank's (B, ...) -> all ranks' (W·B, ...) in rank order, cut off from the graph."""
    return x.detach() if world_size() == 1 else _all_gather(x)


@torch.no_grad()
def from_first_rank(x: Tensor) -> Tensor:
    """Rank 0's `x` on every rank; all ranks bring the same shape."""
    if world_size() > 1:
        x = x.clone()
        dist.broadcast(x, src=0)
    return x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()  # (W·B, ...): the all-reduce writes into it
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def _all_gather(x: Tensor) -> Tensor:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def _in_use() -> bool:
    return dist.is_available() and dist.is_initialized()
