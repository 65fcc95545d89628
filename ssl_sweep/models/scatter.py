"""Scatter plots of features as images, and a measure of class separation."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 320  # pixels of the drawing
MARGIN = 8
DOT = 3  # pixels, odd


def principal_plane(points: Tensor) -> Tensor:
    """Project points (N, D) on their first two principal components (N, 2); one or two dimensions stay as they are."""
    if points.shape[1] <= 2:
        return F.pad(points, (0, 2 - points.shape[1]))
    centered = points - points.mean(dim=0)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    plane: Tensor = u[:, :2] * s[:2]  # (N, 2), or (1, 1) for a single point
    return F.pad(plane, (0, 2 - plane.shape[1]))


def scatter_plot(points: Tensor, colors: Tensor) -> Tensor:
    """Points (N, 2) as dots of their colours (N, 3) on white, scaled to the larger extent: (3, SIDE, SIDE)."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    extent = (high - low).max().clamp(min=1e-12)
    unit = (points - (low + high) / 2) / extent + 0.5  # (N, 2) in [0, 1]
    x, y = (MARGIN + unit * (SIDE - 1 - 2 * MARGIN)).round().long().unbind(dim=1)
    image = torch.ones(3, SIDE, SIDE, device=points.device)
    for down in range(-(DOT // 2), DOT // 2 + 1):
        for right in range(-(DOT // 2), DOT // 2 + 1):
            image[:, SIDE - 1 - y + down, x + right] = colors.T.to(image.dtype)
    return image


def colors_of(classes: Tensor, shades: Tensor, num_classes: int, num_shades: int) -> Tensor:
    """A hue for each class and a brightness for each shade, both (N,) int64: colours (N, 3) in [0, 1].

    Class -1, of images without a label, is grey.
    """
    turn = (
        2 * math.pi * (classes / max(num_classes, 1) + torch.tensor([[0.0], [1 / 3], [2 / 3]], device=classes.device))
    )
    hue = (0.5 + 0.5 * torch.cos(turn)).T  # (N, 3)
    hue = torch.where(classes.unsqueeze(1) < 0, 0.6, hue)
    return hue * (1 - 0.6 * shades / max(num_shades - 1, 1)).unsqueeze(1)


def separation(points: Tensor, labels: Tensor) -> Tensor:
    """Mean distance between points of different labels divided by that between points of the same label.

    Other variation between points of a label, such as a shift, counts as distance within it: an arrangement by shift
    has a value near 1, two tight clusters a large one. 0 if all points with a label have the same.

    Args:
        points: (N, D).
        labels: (N,); points without one (-1) do not count.
    """
    distances = torch.cdist(points, points)
    known = labels >= 0
    pairs = known.unsqueeze(1) & known
    same = (labels.unsqueeze(1) == labels) & pairs
    other = ~same & pairs
    within = (distances * same).sum() / (same.sum() - known.sum()).clamp(min=1)  # without pairs of a point and itself
    between = (distances * other).sum() / other.sum().clamp(min=1)
    return between / within.clamp(min=torch.finfo(distances.dtype).tiny)
