"""Batch normalisation over the global batch.

Statistics of each rank's share make results depend on the number of ranks; those of the global batch do not.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_sweep.models.batchnorm import SplitBatchNorm, layers_after, take_over
from ssl_sweep.models.distributed import gather, gather_no_grad, world_size
from ssl_sweep.models.precision import at_least_fp32


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation over the global batch, on any device; torch's SyncBatchNorm needs CUDA.

    Evaluation mode and state keys are those of plain batch normalisation.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, norm: _BatchNorm) -> None:
        """Take the weights and statistics of `norm`."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        take_over(norm, self)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training:
            return layers_after(self, super().forward(x))
        others = [0, *range(2, x.ndim)]  # all dimensions but the channels'
        with torch.autocast(x.device.type, enabled=False):
            full = at_least_fp32(x)
            local = torch.stack([full.mean(others), full.var(others, correction=0)])  # (2, C)
            means, variances = gather(local.unsqueeze(0)).unbind(dim=1)  # (W, C) each, of shares of the same size
            mean, variance = means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0)
            self._track(mean, variance, world_size() * x.numel() // x.shape[1])
            shape = (1, -1, *[1] * (x.ndim - 2))
            normal = (full - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return layers_after(self, normal.to(x.dtype))

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Accept vectors and maps."""


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's, followed by the layers that the replaced normalisation has of its own."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Take the weights, statistics and layers of `norm`."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        take_over(norm, self)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        return layers_after(self, super().forward(x))


GLOBAL_NORMS = (GlobalBatchNorm, nn.SyncBatchNorm)  # with statistics of the global batch on every rank


def global_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every plain batch normalisation in `module` by one over the global batch; weights and state keys stay.

    `SplitBatchNorm` stays as it is: its groups are parts of the batch on any number of ranks.

    Returns:
        the module, or its replacement when it is a batch normalisation itself.
    """
    if isinstance(module, _BatchNorm):
        if isinstance(module, SplitBatchNorm):
            return module
        return SyncBatchNorm(module) if device.type == "cuda" else GlobalBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, global_batchnorm(child, device))
    return module


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Set running statistics over parts of a batch to the ranks' mean, as if one rank had processed all parts.

    Call it after every step: then all ranks have equal statistics whenever they save.
    """
    if world_size() == 1:
        return
    norms = (part for part in module.modules() if isinstance(part, _BatchNorm) and not isinstance(part, GLOBAL_NORMS))
    tracked = [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]
    if tracked:
        means = gather_no_grad(torch.cat(tracked).unsqueeze(0)).mean(dim=0)
        for statistics, mean in zip(tracked, torch.split(means, [len(x) for x in tracked]), strict=True):
            statistics.copy_(mean)
