"""The dictionary of past keys that MoCo contrasts against (He et al. 2020, "Momentum Contrast", section 3.2)."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F


class Queue(nn.Module):
    """First in, first out: `keys` (K, D), of length 1, random until filled. All of it survives a resume.

    Across ranks enqueue gathered keys and construct with the same seed: then all ranks hold the same queue.

    Args:
        size: K.
        dim: D.
        generator: draws the first keys, on the CPU; none: torch's global generator, as for initial weights.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, *, generator: Generator | None = None) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))  # where the oldest key lies

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by `keys` (B, D), any B: of more than K the last K stay.

        Call it after the backward pass, which still needs the keys that the loss has seen.
        """
        size = len(self.keys)
        keys = keys[-size:]
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size  # (B,)
        self.keys.index_copy_(0, slots, keys.to(self.keys.dtype))
        self.pointer.add_(len(keys)).remainder_(size)
