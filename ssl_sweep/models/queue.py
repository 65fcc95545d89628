"""MoCo's queue of past keys (He et al. 2020, "Momentum Contrast", section 3.2)."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F


class Queue(nn.Module):
    """A first-in, first-out queue: `keys` (K, D), of length 1, random until filled. Its state survives a resume.

    If every rank constructs it with the same seed and enqueues gathered keys, all ranks have the same queue.

    Args:
        size: K.
        dim: D.
        generator: draws the first keys, on the CPU; None: torch's global generator, as for initial weights.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, *, generator: Generator | None = None) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))  # position of the oldest key

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by `keys` (B, D), or by the last K of them if B is larger.

        Call it after the backward pass, which needs the keys of the loss.
        """
        size = len(self.keys)
        keys = keys[-size:]
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size  # (B,)
        self.keys.index_copy_(0, slots, keys.to(self.keys.dtype))
        self.pointer.add_(len(keys)).remainder_(size)
