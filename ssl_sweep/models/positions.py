"""Fixed positions of a transformer's patches."""

import torch
from torch import Tensor

BASE = 10_000.0  # the longest wave, in patches over 2π


def sine_positions(height: int, width: int, dim: int) -> Tensor:
    """Sines and cosines of each patch's column and row, (height·width, dim), row by row.

    A quarter of the dimensions each has the sines of the column, its cosines, the sines of the row and its cosines, at
    dim/4 frequencies from 1 to 1/10,000.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5, in two dimensions as in Chen, Xie & He 2021,
    "An Empirical Study of Training Self-Supervised Vision Transformers", section 5.

    Raises:
        ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"positions: sines need a width that is a multiple of 4, got {dim}; take learned positions")
    quarter = dim // 4
    frequencies = BASE ** -(torch.arange(quarter) / quarter)  # (dim/4,)
    columns = torch.arange(width).repeat(height).unsqueeze(1) * frequencies  # (height·width, dim/4)
    rows = torch.arange(height).repeat_interleave(width).unsqueeze(1) * frequencies
    return torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1)
