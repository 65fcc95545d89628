"""Helpers to compute losses, logits and normalisations in fp32 or better."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in fp32 if it is in half precision; fp32 and fp64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of `x`, for the mathematics of a loss."""
    return torch.autocast(x.device.type, enabled=False)
