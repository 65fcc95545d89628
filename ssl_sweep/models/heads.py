"""Heads on pooled features: projectors, predictors and the linear classifier."""

from itertools import pairwise
from typing import Literal

from torch import nn


def mlp(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    layers: int = 2,
    batch_norm: bool = False,
    last_norm: Literal["none", "affine", "plain"] = "none",
) -> nn.Sequential:
    """A perceptron (B, in_dim) -> (B, out_dim) of `layers` linear layers with ReLU between them.

    The heads of the papers, with D the encoder's feature dimension:
    MoCo-v2 `mlp(D, D, 128)`; SimCLR `mlp(D, D, 128, batch_norm=True, last_norm="affine")`;
    BYOL, projector and predictor, `mlp(_, 4096, 256, batch_norm=True)`;
    SimSiam's projector `mlp(D, 2048, 2048, layers=3, batch_norm=True, last_norm="plain")`, its predictor
    `mlp(2048, 512, 2048, batch_norm=True)`.

    Args:
        layers: linear layers, 1 or more.
        batch_norm: batch normalisation before each ReLU.
        last_norm: batch normalisation of the output: none, affine, or plain (without scale and shift).
    """
    if layers < 1:
        raise ValueError(f"layers: a head needs at least 1 linear layer, got {layers}")
    modules: list[nn.Module] = []
    dims = [in_dim, *[hidden_dim] * (layers - 1)]
    for dim, next_dim in pairwise(dims):
        # no bias before batch normalisation, which would subtract it
        modules.append(nn.Linear(dim, next_dim, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(next_dim))
        modules.append(nn.ReLU(inplace=True))
    modules.append(nn.Linear(dims[-1], out_dim, bias=last_norm == "none"))
    if last_norm != "none":
        modules.append(nn.BatchNorm1d(out_dim, affine=last_norm == "affine"))
    return nn.Sequential(*modules)


def linear_head(in_dim: int, num_classes: int) -> nn.Linear:
    """A linear classifier (B, in_dim) -> logits (B, num_classes), N(0, 0.01²) and zero bias as for linear probes."""
    head = nn.Linear(in_dim, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head
