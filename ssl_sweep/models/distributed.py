"""Collectives between the ranks of a trial, for losses over the global batch; no-ops with a single rank.

Every rank must pass a batch of the same size.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Dismissed(Exception):  # noqa: N818 - not an error: rank 0 reports why it ended
    """Raised on the other ranks when rank 0 is pruned, stopped or fails."""


def world_size() -> int:
    """The number of ranks; 1 without torch.distributed."""
    return dist.get_world_size() if _in_use() else 1


def rank() -> int:
    """This process's rank; 0 without torch.distributed."""
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
    """Each rank's (B, ...) -> all ranks' (W·B, ...) in rank order, without gradient."""
    return x.detach() if world_size() == 1 else _all_gather(x)


@torch.no_grad()
def broadcast(x: Tensor) -> Tensor:
    """Rank 0's `x` on every rank; the shape must be the same on all ranks."""
    if world_size() > 1:
        x = x.clone()
        dist.broadcast(x, src=0)
    return x


@torch.no_grad()
def mean_scalars(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ranks' means of scalars that all ranks have, without gradient; bitwise equal on every rank."""
    if world_size() == 1:
        return scalars
    stacked = torch.stack([torch.as_tensor(value, dtype=torch.float64).detach() for value in scalars.values()])
    dist.all_reduce(stacked)
    return dict(zip(scalars, stacked / world_size(), strict=True))


def on_first_rank(work: Callable[[], None]) -> None:
    """Run `work` on rank 0 while the others wait for it.

    Raises:
        Dismissed: on the others, if the work raises on rank 0.
    """
    done = torch.zeros(1)
    try:
        if rank() == 0:
            work()
            done += 1
    finally:
        done = broadcast(done)
    if not done:
        raise Dismissed("rank 0 has ended its work")


def leave() -> None:
    """Destroy the process group: from here on this process is the only rank."""
    if _in_use():
        dist.destroy_process_group()


def is_of_a_lost_rank(error: BaseException) -> bool:
    """Whether an error means that another rank no longer responds: it is not this rank's fault."""
    kinds = (dist.DistBackendError, dist.DistNetworkError) if dist.is_available() else ()
    # torch has no type for gloo's errors: only their text identifies them
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "gloo" in str(error))


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
