"""Keys for contrastive learning with a queue: the momentum encoder, its batch normalisation, and the queue.

Source: He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", sections 3.2 and 3.3.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from ssl_sweep.models.batchnorm import shuffled, split_batchnorm
from ssl_sweep.models.distributed import gather_no_grad, world_size
from ssl_sweep.models.losses import unit
from ssl_sweep.models.momentum import ema_copy, ema_update
from ssl_sweep.models.queue import Queue

KeyBatchNorm = Annotated[
    Literal["shuffled", "split", "plain"],
    Field(
        description="split: batch statistics by groups of images; shuffled: the same, with keys in other groups than "
        "their queries; plain: statistics of the whole batch"
    ),
]
BatchNormSplits = Annotated[
    int, Field(ge=1, description="groups of the global batch for split and shuffled, in place of devices")
]

QUEUE_SIZE = 65536  # of MoCo's paper, on ImageNet
QueueSize = Annotated[
    int | None,
    Field(
        ge=1,
        description="keys in the queue: a multiple of those per step, fewer than the training images unless it is "
        "one step's; null: 65536, or fewer where there are fewer images",
    ),
]


class MomentumKeys(nn.Module):
    """A moving average of the query network, and a queue of its keys.

    A step calls `encode` for its views, `hold` for the keys to enqueue, and `step` after the backward pass. The
    reference updates the average before each encoding; the result is equal, as its first update changes nothing.

    Args:
        online: the query network, images -> (B, dim).
        dim: of a key.
        size: keys in the queue.
    """

    def __init__(self, online: nn.Sequential, dim: int, size: int) -> None:
        super().__init__()
        self.network = ema_copy(online)
        self.queue = Queue(size, dim)
        self._held: tuple[Tensor, ...] = ()  # no buffer: between two steps there is nothing to save

    @torch.no_grad()
    def encode(self, images: Tensor, order: Tensor | None) -> Tensor:
        """Images (B, 3, S, S) -> keys (B, dim) of length 1 without gradient, computed in `order` if there is one."""
        return unit(self.network(images) if order is None else shuffled(self.network, images, order))

    def hold(self, *keys: Tensor) -> None:
        """Keep this rank's `keys` (N, dim), one tensor per view, until `step`."""
        self._held = keys

    def step(self, online: nn.Module, momentum: float) -> None:
        """Move the average towards `online` and enqueue all ranks' held keys.

        Raises:
            ValueError: the queue's size is not a multiple of the number of keys.
        """
        assert self._held, "hold the keys of a step before ending it"  # noqa: S101 - a caller's mistake
        ema_update(self.network, online, momentum)
        keys, self._held = torch.cat([gather_no_grad(view) for view in self._held]), ()
        size = len(self.queue.keys)
        if size % len(keys):
            raise ValueError(
                f"method.queue_size: {size} is not a multiple of the {len(keys)} keys that a step adds; "
                f"take {_nearest_multiple(size, len(keys))}, or another pretrain.batch_size"
            )
        self.queue.enqueue(keys)


def batch_groups(settings: Mapping[str, Any]) -> dict[str, int]:
    """The declaration `batch_groups` of methods that have the knobs `key_batch_norm` and `bn_splits`."""
    return {} if settings["key_batch_norm"] == "plain" else {"bn_splits": settings["bn_splits"]}


def queue_for(keys_per_step: int, train_images: int) -> int:
    """The paper's queue, or the largest one that is shorter than the training set; always whole steps, at least one."""
    longest = min(QUEUE_SIZE, train_images - 1)
    return max(1, longest // keys_per_step) * keys_per_step


def check_queue(size: int | None, keys_per_step: int, train_images: int | None) -> str | None:
    """Check a queue's size, None for that of `queue_for`; returns a warning where no queue is shorter than the set.

    Raises:
        ValueError: it is no multiple of a step's keys, or not shorter than the training set and more than one step's:
            it then holds older keys of the query's own image, as negatives.
    """
    if size is not None:
        _require_fit(size, keys_per_step, train_images)
    if train_images is None or keys_per_step < train_images:
        return None
    return (
        f"queue_size: is {keys_per_step}, the keys of one step, as none is shorter than the {train_images} training "
        "images: it holds older keys of the query's own image; take a smaller pretrain.batch_size"
    )


def _require_fit(size: int, keys_per_step: int, train_images: int | None) -> None:
    best = _nearest_multiple(size, keys_per_step)
    if train_images is not None:
        best = min(best, queue_for(keys_per_step, train_images))
        if size >= train_images and size > keys_per_step:
            raise ValueError(f"queue_size: {size} is not shorter than the {train_images} training images; take {best}")
    if size % keys_per_step:
        raise ValueError(
            f"queue_size: {size} is not a multiple of the {keys_per_step} keys that a step adds; take {best}, or "
            "another pretrain.batch_size"
        )


def group_batchnorm(encoder: nn.Module, kind: str, splits: int) -> None:
    """Make `encoder` normalise in groups, in place, unless `kind` is plain; its state keys stay.

    Raises:
        ValueError: the ranks cannot share the groups evenly.
    """
    if kind == "plain":
        return
    if splits % world_size():
        raise ValueError(
            f"method.bn_splits: {splits} groups cannot be shared by {world_size()} workers; make it a multiple of "
            "resources.workers"
        )
    split_batchnorm(encoder, splits // world_size())  # each rank has a share of the batch


def draw_orders(names: tuple[str, ...], kind: str, count: int, rng: Generator) -> dict[str, Tensor]:
    """For each view the order in which its keys are computed, `<name>_order`: a permutation of the batch of `count`.

    Empty unless `kind` is shuffled.
    """
    if kind != "shuffled":
        return {}
    return {f"{name}_order": torch.randperm(count, generator=rng, device=rng.device) for name in names}


def _nearest_multiple(size: int, divisor: int) -> int:
    return max(1, round(size / divisor)) * divisor
