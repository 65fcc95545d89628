"""Resampling and blurring as products of each image with two band matrices, one along each axis."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Taps(NamedTuple):
    """The band of one matrix a sample: output pixel s is the sum over k of weights[s, k] * input[pixels[s, k]]."""

    pixels: Tensor  # (B, S, K) int64, each in [0, N)
    weights: Tensor  # (B, S, K) float32


def filter_axes(images: Tensor, down: Taps, across: Taps) -> Tensor:
    """down @ image @ across.T channel by channel: (B, C, H, W) of any type to (B, C, S, T) float32, a permuted view."""
    batch, channels, height, width = images.shape
    rows = images.transpose(1, 2).to(torch.float32, copy=True, memory_format=torch.contiguous_format)  # (B, H, C, W)
    rows = _sum_rows(rows.view(batch, height, channels * width), down)  # (B, S, C * W)
    columns = rows.view(batch, -1, width).transpose(1, 2).contiguous()  # (B, W, S * C)
    columns = _sum_rows(columns, across)  # (B, T, S * C)
    return columns.view(batch, columns.shape[1], -1, channels).permute(0, 3, 2, 1)


def _sum_rows(table: Tensor, taps: Taps) -> Tensor:
    """The matrices times (B, N, D): (B, S, D). Few taps make this several times faster than dense products."""
    batch, length, values = table.shape
    first = torch.arange(batch, device=table.device).view(-1, 1, 1) * length
    summed = F.embedding_bag(
        (taps.pixels + first).flatten(0, 1),
        table.view(batch * length, values),
        mode="sum",
        per_sample_weights=taps.weights.flatten(0, 1),
    )
    return summed.view(batch, -1, values)
