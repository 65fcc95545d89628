"""Patches with high gradient energy and their random transforms, batched on the device (Exemplar-CNN's data)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sweep.data.color import TINY, adjust_hue, grayscale


class Transforms(NamedTuple):
    """One transform for each of B patches."""

    moves: Tensor  # (B, 2) x and y in patch sides
    scales: Tensor  # (B,) side of the window, in patch sides
    angles: Tensor  # (B,) radians
    contrasts: Tensor  # (B, 3) factors along the principal colours
    powers: Tensor  # (B, 2) of saturation and value; so are the next two
    factors: Tensor  # (B, 2)
    offsets: Tensor  # (B, 2)
    hues: Tensor  # (B,) fractions of the colour circle


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """The ranges of the transforms. Moves, angles, offsets and hues are uniform, factors and powers log-uniform."""

    shift: float
    scale_min: float
    scale_max: float
    rotation: float  # degrees
    contrast: float  # between 1 / this and this
    power: float  # between 1 / this and this
    factor_min: float
    factor_max: float
    offset: float
    hue: float

    def draw(self, count: int, rng: torch.Generator) -> Transforms:
        """`count` transforms."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.empty(count, *shape, device=rng.device).uniform_(low, high, generator=rng)

        def factor(low: float, high: float, *shape: int) -> Tensor:
            return uniform(math.log(low), math.log(high), *shape).exp()

        angle = math.radians(self.rotation)
        return Transforms(
            moves=uniform(-self.shift, self.shift, 2),
            scales=factor(self.scale_min, self.scale_max),
            angles=uniform(-angle, angle),
            contrasts=factor(1 / self.contrast, self.contrast, 3),
            powers=factor(1 / self.power, self.power, 2),
            factors=factor(self.factor_min, self.factor_max, 2),
            offsets=uniform(-self.offset, self.offset, 2),
            hues=uniform(-self.hue, self.hue),
        )


def transformed_patches(images: Tensor, corners: Tensor, size: int, transforms: Transforms) -> Tensor:
    """The patches at `corners` of images (B, 3, S, S), transformed: (B, 3, size, size) in [0, 1]."""
    with torch.autocast(images.device.type, enabled=False):  # bf16 would shift the sampled positions
        patches = cut_patches(images, corners, size, transforms.moves, transforms.scales, transforms.angles)
        patches = scale_principal_colors(patches, transforms.contrasts).clamp_(0, 1)
        patches = change_saturation_and_value(patches, transforms.powers, transforms.factors, transforms.offsets)
        return adjust_hue(patches, transforms.hues).clamp_(max=1)


def busiest_corners(images: Tensor, size: int) -> Tensor:
    """Top and left (B, 2) int64 of the square of `size` pixels with the most gradient in images (B, 3, S, S).

    The gradient is the sum of the squared differences between neighbouring pixels' luma; of equals the first counts.
    """
    gray = grayscale(images)
    vertical, horizontal = gray.diff(dim=2).square(), gray.diff(dim=3).square()
    energy = F.pad(vertical, (0, 0, 0, 1)) + F.pad(horizontal, (0, 1, 0, 0))  # (B, 1, S, S)
    sums = F.avg_pool2d(energy, size, stride=1)  # (B, 1, S - size + 1, ...)
    place = sums.flatten(1).argmax(dim=1)
    return torch.stack([place // sums.shape[3], place % sums.shape[3]], dim=1)


def cut_patches(images: Tensor, corners: Tensor, size: int, moves: Tensor, scales: Tensor, angles: Tensor) -> Tensor:
    """Squares at `corners` (B, 2), moved, scaled and turned about their centre: (B, 3, size, size).

    Interpolation is bilinear; beyond its edge the image is mirrored.

    Args:
        moves: (B, 2) x and y of the window, in multiples of `size`.
        scales: (B,) side of the window over `size`: below 1 enlarges the content.
        angles: (B,) radians by which the window turns clockwise.
    """
    side = images.shape[-1]
    center = (corners.flip(1) + size / 2 + moves * size) * (2 / side) - 1  # (B, 2) x and y in [-1, 1] of the image
    extent = scales * size / side
    cos, sin = extent * angles.cos(), extent * angles.sin()
    rows = torch.stack([cos, -sin, center[:, 0], sin, cos, center[:, 1]], dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def scale_principal_colors(patches: Tensor, factors: Tensor) -> Tensor:
    """Scale each patch's centred colours by `factors` (B, 3) along its three principal components, weakest first."""
    colors = patches.flatten(2)  # (B, 3, P)
    mean = colors.mean(dim=2, keepdim=True)
    centered = colors - mean
    _, axes = torch.linalg.eigh(centered @ centered.transpose(1, 2))  # (B, 3, 3), in columns
    scaled: Tensor = (axes * factors.unsqueeze(1)) @ (axes.transpose(1, 2) @ centered)
    return (scaled + mean).view_as(patches)


def change_saturation_and_value(patches: Tensor, powers: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """S and V of HSV to a power, times a factor, plus an offset, each (B, 2): patches (B, 3, size, size) in [0, 1]."""
    value = patches.amax(dim=1, keepdim=True)
    chroma = value - patches.amin(dim=1, keepdim=True)
    fall = (value - patches) / chroma.clamp(min=TINY)  # 0 to 1 by channel: the hue, whatever S and V are
    both = torch.cat([chroma / value.clamp(min=TINY), value], dim=1)  # (B, 2, size, size)
    powers, factors, offsets = (x[:, :, None, None] for x in (powers, factors, offsets))
    both = (both**powers * factors + offsets).clamp_(0, 1)
    saturation, value = both[:, :1], both[:, 1:]
    return value * (1 - saturation * fall)
