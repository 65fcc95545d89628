"""Where half precision ends: losses, logits and normalisations are computed in fp32 or better."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in fp32 when it was in half precision, as it is otherwise (so that fp64 stays fp64)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of `x`, for the mathematics of a loss."""
    return torch.autocast(x.device.type, enabled=False)
