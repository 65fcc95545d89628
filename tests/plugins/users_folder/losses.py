"""Shared by my methods."""

from torch import Tensor


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()
