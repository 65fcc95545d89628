"""Crop, flip and resize of a ragged batch as two products per sample, each sample with its own window.

Every output row is a weighted mean of input rows, and every output column one of input columns, so that a view is
`W_y @ image @ W_x.T`. The weights are the antialiased bilinear filter (a triangle as wide as the reduction), which is
what torchvision computes with `antialias=True`. Only the few weights of a row that are not 0 are ever made.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.rows import parts
from ssl_sweep.data.taps import Taps, filter_axes


class Window(NamedTuple):
    """What of each image becomes the view, and what its filter may read: (y, x) in pixels, fractions allowed."""

    start: Tensor  # (B, 2) float32, the corner of the view
    length: Tensor  # (B, 2) float32, its extent, negative where the view is mirrored
    low: Tensor  # (B, 2) float32, only pixels from low up to, not including, high have a weight
    high: Tensor  # (B, 2) float32


def crop_window(boxes: Tensor) -> Window:
    """Boxes (B, 4) of top, left, height, width; the filter stops at the box, as in cropping and then resizing."""
    start, length = boxes[:, :2].float(), boxes[:, 2:].float()
    return Window(start, length, start, start + length)


def whole_window(sizes: Tensor) -> Window:
    """Each image from edge to edge; sizes (B, 2)."""
    length = sizes.float()
    start = torch.zeros_like(length)
    return Window(start, length, start, length)


def mirrored(window: Window, flips: Tensor) -> Window:
    """The same window read from right to left where flips (B,) says so."""
    reverse = torch.stack([torch.zeros_like(flips), flips], dim=1)  # (B, 2): only along x
    start = torch.where(reverse, window.start + window.length, window.start)
    return window._replace(start=start, length=torch.where(reverse, -window.length, window.length))


def center_window(sizes: Tensor, size: int) -> Window:
    """The middle of each image once its short side is resized to `size`, in whole pixels of the resized image."""
    sides = sizes.float()
    resized = size * sizes // sizes.amin(dim=1, keepdim=True)  # (B, 2), the long side cut to whole pixels
    scale = sides / resized
    return Window(torch.round((resized - size) / 2) * scale, size * scale, torch.zeros_like(sides), sides)


def same_place(window: Window, sizes: Tensor, other_sizes: Tensor) -> Window:
    """The window at the same relative place of other images: what it would show of them, stretched to `sizes`."""
    # multiplied before divided: whole pixels stay whole where the sizes are equal
    start, end = ((edge * other_sizes) / sizes for edge in (window.start, window.start + window.length))
    low = torch.floor(window.low * other_sizes / sizes)
    high = torch.minimum(torch.ceil(window.high * other_sizes / sizes), other_sizes.float())
    return Window(start, end - start, low, high)


def axis_taps(window: Window, axis: int, frame: int, size: int) -> Taps:
    """What each of `size` output pixels takes along an axis (0: y) of frames `frame` pixels long; weights sum to 1."""
    start, length, low, high = (edge[:, axis, None] for edge in window)  # each (B, 1)
    scale = length / size
    support = scale.abs().clamp(min=1)  # an enlargement interpolates, a reduction averages what an output pixel covers
    center = scale * (torch.arange(size, device=start.device) + 0.5)  # (B, size), from the start
    first = torch.floor(start + center - support + 0.5)
    count = math.ceil(2 * max(1, frame / size))  # the most that any window inside the frame needs
    pixels = first.unsqueeze(2) + torch.arange(count, device=start.device)  # (B, size, count)
    # measured from the start, where float32 is exact: far from the origin it would not be
    distance = (pixels - (start - 0.5).unsqueeze(2)) - center.unsqueeze(2)
    weights = support.unsqueeze(2).sub(distance.abs_()).clamp_(min=0)
    weights *= (pixels >= low.unsqueeze(2)) & (pixels < high.unsqueeze(2))
    return Taps(pixels.clamp_(0, frame - 1).long(), weights.div_(weights.sum(dim=2, keepdim=True)))


def resample(pixels: Tensor, window: Window, size: int) -> Tensor:
    """Windows of `pixels` (B, 3, H, W) uint8 as (B, 3, size, size) float32 in [0, 1]."""
    batch, channels, height, width = pixels.shape
    views = torch.empty(batch, channels, size, size, device=pixels.device)
    for some in parts(batch, channels * height * width, pixels.device):
        part = Window(*(edge[some] for edge in window))
        down, across = axis_taps(part, 0, height, size), axis_taps(part, 1, width, size)
        torch.div(filter_axes(pixels[some], down, across), 255, out=views[some])
    return views.clamp_(max=1)


def overlay(clean: Tensor, images: Images, window: Window, rows: Tensor, alpha: float) -> Tensor:
    """alpha * x_j + (1 - alpha) * x_i for crops `clean` (B, 3, S, S) of the images i in their windows, and j = rows[i].

    Rows are of the whole batch.

    Resampling is linear: to overlay the crops is to crop the overlaid images, exactly where the sizes are equal, and
    with x_j stretched to the size of x_i where they are not. (The paired-image-overlay paper's corrupted input.)
    """
    other = images.at(rows)
    place = same_place(window, images.sizes, other.sizes)
    return torch.lerp(clean, resample(other.pixels, place, clean.shape[-1]), alpha)


def center(images: Images, size: int) -> Tensor:
    """Short side resized to `size`, then the central square: (B, 3, size, size) float32 in [0, 1], nothing random."""
    return resample(images.pixels, center_window(images.sizes, size), size)
