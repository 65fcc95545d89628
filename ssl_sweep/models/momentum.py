"""Target networks: exponential moving averages of an online network.

Source: He et al. 2020, "Momentum Contrast", equation 2; Grill et al. 2020, "Bootstrap Your Own Latent", section 3.2.
"""

import copy
import math
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn

from ssl_sweep.models.precision import at_least_fp32

M = TypeVar("M", bound=nn.Module)
EncoderOf = Annotated[
    Literal["student", "teacher"],
    Field(description="encoder that is evaluated and exported: the one trained by gradient, or its moving average"),
]


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


class WeightAverage(nn.Module):
    """A moving average of a network's weights and statistics, to measure in its place.

    After n steps the momentum is (1 + n)/(10 + n), at most `momentum`: short trainings forget their beginning too.
    """

    steps: torch.Tensor

    def __init__(self, online: nn.Sequential, momentum: float) -> None:
        super().__init__()
        self.momentum, self.network = momentum, ema_copy(online)
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def step(self, online: nn.Module) -> None:
        """Move the average towards `online`, buffers too; counters are taken over."""
        self.steps += 1
        weight = 1 - ((1 + self.steps) / (10 + self.steps)).clamp(max=self.momentum)
        averages, values = self.network.state_dict(keep_vars=True), online.state_dict(keep_vars=True)
        for name, average in averages.items():
            value = values[name].to(average.dtype)
            if average.is_floating_point():
                average.lerp_(value, weight.to(average.dtype))
            else:
                average.copy_(value)


def cosine_momentum(start: float, progress: float) -> float:
    """BYOL's schedule: from `start` at progress 0 to 1 at progress 1, 1 − (1 − start)·(cos(π·progress) + 1)/2."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
