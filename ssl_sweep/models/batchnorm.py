"""Batch normalisation whose statistics do not reveal which batch a key was in.

Statistics shared by a query and its key let MoCo cheat. Both remedies make them differ (He et al. 2020, "Momentum
Contrast", section 3.3): normalise small groups on one device, or shuffle the keys' batch between groups or ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_sweep.models.distributed import gather_no_grad, rank, world_size


class SplitBatchNorm(_BatchNorm):
    """Batch normalisation over `num_splits` consecutive groups of the batch, as if each were on its own device.

    A batch that does not divide evenly gives groups of nearly equal size, of at least two images. The running
    statistics are the mean over the groups. Evaluation mode and state keys are those of plain batch normalisation.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, norm: _BatchNorm, num_splits: int) -> None:
        """Take the weights and statistics of `norm`, which must have running statistics."""
        if not norm.track_running_stats:
            raise ValueError(f"SplitBatchNorm: {norm} has no running statistics; set track_running_stats=True")
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        take_over(norm, self)
        self.num_splits = num_splits

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        splits = min(self.num_splits, len(x) // 2)
        if not self.training or splits < 2:
            return layers_after(self, super().forward(x))
        means, variances = (s.repeat(splits, 1) for s in (self.running_mean, self.running_var))  # (splits, C)
        # One call per group keeps channels-last, which folding the groups into the channels would lose. `tensor_split`
        # gives the same groups, but its backward pass fills a whole batch with zeros for each of them.
        groups = torch.split(x, _group_sizes(len(x), splits))
        outputs = [
            F.batch_norm(group, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
            for group, mean, variance in zip(groups, means, variances, strict=True)
        ]
        self.running_mean.copy_(means.mean(dim=0))
        self.running_var.copy_(variances.mean(dim=0))
        self.num_batches_tracked.add_(1)
        return layers_after(self, torch.cat(outputs))

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Accept vectors and maps."""


def take_over(norm: _BatchNorm, into: _BatchNorm) -> None:
    """Give a batch normalisation the weights, the statistics and the layers of another."""
    into.weight, into.bias = norm.weight, norm.bias
    for name, statistics in norm.named_buffers(recurse=False):
        setattr(into, name, statistics)
    for name, layer in norm.named_children():
        into.add_module(name, layer)


def layers_after(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply the layers that a batch normalisation has of its own: timm's contain dropout and activation, in order."""
    for layer in norm.children():
        x = layer(x)
    return x


def _group_sizes(batch_size: int, splits: int) -> list[int]:
    """Sizes of `splits` consecutive groups of a batch; they differ by at most 1, the larger ones first."""
    size, larger = divmod(batch_size, splits)
    return [size + 1] * larger + [size] * (splits - larger)


def split_batchnorm(module: nn.Module, num_splits: int) -> nn.Module:
    """Replace every batch normalisation in `module` by one over `num_splits` groups; weights and state keys stay.

    Returns:
        the module, or its replacement when it is a batch normalisation itself.
    """
    if isinstance(module, _BatchNorm):
        return SplitBatchNorm(module, num_splits)
    for name, child in module.named_children():
        setattr(module, name, split_batchnorm(child, num_splits))
    return module


@torch.no_grad()
def shuffled(encode: Callable[[Tensor], Tensor], x: Tensor, order: Tensor) -> Tensor:
    """Compute `encode(x)` in another order, restore the order, without gradient: shuffling BN for keys.

    Keys then share a group of a split batch normalisation, and a rank, with other images than their queries do.

    Args:
        encode: images (B, ...) -> keys (B, D).
        x: this rank's images (B, ...).
        order: permutation (W·B,) of the global batch of W ranks, the same on all.

    Returns:
        this rank's keys (B, D).
    """
    local = gather_no_grad(x)[order.chunk(world_size())[rank()]]
    keys = gather_no_grad(encode(local))  # (W·B, D), in shuffled order
    return keys[order.argsort()].chunk(world_size())[rank()]
