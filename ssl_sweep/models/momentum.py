"""Target networks: exponential moving averages of an online network.

Source: He et al. 2020, "Momentum Contrast", equation 2; Grill et al. 2020, "Bootstrap Your Own Latent", section 3.2.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from ssl_sweep.models.precision import at_least_fp32

M = TypeVar("M", bound=nn.Module)


def ema_copy(online: M) -> M:
    """A copy of `online` without gradients, with parameters in fp32 or better."""
    target = copy.deepcopy(online)
    for parameter in target.parameters():
        parameter.requires_grad_(False)
        # in bf16 an average at 0.999 never changes: the step is below half a unit in the last place
        parameter.data = at_least_fp32(parameter.data)
    return target


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """θ_target ← m·θ_target + (1 − m)·θ_online for every parameter.

    Buffers are not updated: the target runs in training mode and tracks its own batch statistics.
    """
    for average, parameter in zip(target.parameters(), online.parameters(), strict=True):
        average.lerp_(parameter.to(average.dtype), 1 - momentum)


def cosine_momentum(start: float, progress: float) -> float:
    """BYOL's schedule: from `start` at progress 0 to 1 at progress 1, 1 − (1 − start)·(cos(π·progress) + 1)/2."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
