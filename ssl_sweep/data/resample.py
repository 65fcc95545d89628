"""Crops, flips and resizes images of unequal size in one batch, each with its own window, by two products per image.

Every output row is a weighted mean of input rows, and every output column one of input columns, so that a view is
`W_y @ image @ W_x.T`. The weights are an antialiased filter as wide as the reduction, bilinear (a triangle) or bicubic,
which is what torchvision computes with `antialias=True`. Only the nonzero weights of each row are computed.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.rows import parts
from ssl_sweep.data.taps import Taps, filter_axes

Interpolation = Literal["bilinear", "bicubic"]
RADIUS = {"bilinear": 1, "bicubic": 2}  # of the filter, in output pixels of a reduction
CUBIC = -0.5  # Keys 1981, "Cubic convolution interpolation", eq. 15; Pillow's and torchvision's with antialias


class Window(NamedTuple):
    """The part of each image that becomes the view, and what its filter may read: (y, x) in pixels, also fractional."""

    start: Tensor  # (B, 2) float32, or all four float64; the corner of the view
    length: Tensor  # (B, 2), its extent, negative where the view is mirrored
    low: Tensor  # (B, 2), only pixels from low up to, not including, high have a weight
    high: Tensor  # (B, 2)


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
    """The same window, read from right to left where flips (B,) is true."""
    reverse = torch.stack([torch.zeros_like(flips), flips], dim=1)  # (B, 2): only along x
    start = torch.where(reverse, window.start + window.length, window.start)
    return window._replace(start=start, length=torch.where(reverse, -window.length, window.length))


def square_window(sizes: Tensor, resize: int, size: int, rng: torch.Generator | None = None) -> Window:
    """A square of side `size` of each image, its short side resized to `resize`, at whole pixels of the resized image.

    It is in the centre, or with a generator at a random place.
    """
    sides = sizes.double()  # float32 would round the places of far pixels, and an evaluation can afford it
    resized = resize * sizes // sizes.amin(dim=1, keepdim=True)  # (B, 2), the long side cut to whole pixels
    room = resized - size
    if rng is None:
        corner = torch.round(room / 2)
    else:
        uniform = torch.rand(room.shape, generator=rng, device=rng.device)
        corner = torch.minimum((uniform * (room + 1)).long(), room)  # float32 can round up to room + 1
    scale = sides / resized
    return Window(corner * scale, size * scale, torch.zeros_like(sides), sides)


def same_place(window: Window, sizes: Tensor, other_sizes: Tensor) -> Window:
    """The window at the same relative place in other images, as if they were stretched to `sizes`."""
    # multiply before dividing: whole pixels stay whole where the sizes are equal
    start, end = ((edge * other_sizes) / sizes for edge in (window.start, window.start + window.length))
    low = torch.floor(window.low * other_sizes / sizes)
    high = torch.minimum(torch.ceil(window.high * other_sizes / sizes), other_sizes.float())
    return Window(start, end - start, low, high)


def axis_taps(window: Window, axis: int, frame: int, size: int, interpolation: Interpolation = "bilinear") -> Taps:
    """The weights of the input pixels in each of `size` output pixels, along an axis (0: y) of `frame` pixels.

    The weights of an output pixel sum to 1.
    """
    start, length, low, high = (edge[:, axis, None] for edge in window)  # each (B, 1)
    scale = length / size
    width = scale.abs().clamp(min=1)  # enlarging interpolates; reducing averages what an output pixel covers
    support = RADIUS[interpolation] * width
    center = scale * (torch.arange(size, device=start.device) + 0.5)  # (B, size), from the start
    first = torch.floor(start + center - support + 0.5)
    count = math.ceil(2 * RADIUS[interpolation] * max(1, frame / size))  # the maximum for any window inside the frame
    pixels = first.unsqueeze(2) + torch.arange(count, device=start.device)  # (B, size, count)
    # measured from the start: far from the origin float32 would round
    distance = (pixels - (start - 0.5).unsqueeze(2)) - center.unsqueeze(2)
    if interpolation == "bilinear":
        weights = width.unsqueeze(2).sub(distance.abs_()).clamp_(min=0)
    else:
        weights = _cubic(distance.abs_() / width.unsqueeze(2))
    weights *= (pixels >= low.unsqueeze(2)) & (pixels < high.unsqueeze(2))
    return Taps(pixels.clamp_(0, frame - 1).long(), weights.div_(weights.sum(dim=2, keepdim=True)).float())


def _cubic(x: Tensor) -> Tensor:
    """The cubic convolution kernel at distances x >= 0."""
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def resample(pixels: Tensor, window: Window, size: int, interpolation: Interpolation = "bilinear") -> Tensor:
    """Windows of `pixels` (B, 3, H, W) uint8 as (B, 3, size, size) float32 in [0, 1], where bicubic overshoots."""
    batch, channels, height, width = pixels.shape
    views = torch.empty(batch, channels, size, size, device=pixels.device)
    for rows in parts(batch, channels * height * width, pixels.device):
        part = Window(*(edge[rows] for edge in window))
        down, across = (axis_taps(part, axis, side, size, interpolation) for axis, side in enumerate((height, width)))
        torch.div(filter_axes(pixels[rows], down, across), 255, out=views[rows])
    return views.clamp_(0, 1)


def overlay(clean: Tensor, images: Images, window: Window, rows: Tensor, alpha: float) -> Tensor:
    """alpha * x_j + (1 - alpha) * x_i for crops `clean` (B, 3, S, S) of the images i in their windows, and j = rows[i].

    The rows are those of the global batch. Resampling is linear, so overlaying the crops equals cropping the overlaid
    images, with x_j stretched to the size of x_i where the sizes differ (the paired-image-overlay paper's input).
    """
    other = images.at(rows)
    place = same_place(window, images.sizes, other.sizes)
    return torch.lerp(clean, resample(other.pixels, place, clean.shape[-1]), alpha)


def center(images: Images, size: int) -> Tensor:
    """The centre square after resizing the short side to `size`: (B, 3, size, size) float32 in [0, 1], not random."""
    return resample(images.pixels, square_window(images.sizes, size, size), size)
