"""Random resized crops: draws the box of each image that becomes a view."""

import math

import torch
from torch import Tensor

RATIO_MIN, RATIO_MAX = 3 / 4, 4 / 3
TRIES = 10


def draw_boxes(sizes: Tensor, rng: torch.Generator, scale_min: float, scale_max: float) -> Tensor:
    """Boxes (B, 4) int64 of top, left, height, width inside images of `sizes` (B, 2).

    The area is uniform in [scale_min, scale_max] of the image's, the aspect ratio log-uniform in [3/4, 4/3]. The first
    of ten draws that fits is used; if none fits, the largest central box of a permitted ratio is. This is the
    distribution of torchvision's RandomResizedCrop (Szegedy et al. 2014, arXiv:1409.4842).
    """
    tries = _draw_shapes(sizes, rng, scale_min, scale_max)  # (B, TRIES, 2)
    fits = ((tries > 0) & (tries <= sizes.unsqueeze(1))).all(dim=2)  # (B, TRIES)
    first = fits.to(torch.uint8).argmax(dim=1)
    drawn = tries[torch.arange(len(sizes), device=sizes.device), first]  # (B, 2)
    room = sizes - drawn
    uniform = torch.rand(sizes.shape, generator=rng, device=rng.device)
    # the clamp: in float32 a uniform draw just below 1 times n can round up to n
    corner = torch.minimum((uniform * (room + 1)).long(), room)
    fallback = _central_boxes(sizes)
    return torch.where(fits.any(dim=1, keepdim=True), torch.cat([corner, drawn], dim=1), fallback)


def _draw_shapes(sizes: Tensor, rng: torch.Generator, scale_min: float, scale_max: float) -> Tensor:
    shape = (len(sizes), TRIES)
    area = sizes.prod(dim=1, keepdim=True) * torch.empty(shape, device=rng.device).uniform_(
        scale_min, scale_max, generator=rng
    )
    log_ratio = torch.empty(shape, device=rng.device).uniform_(math.log(RATIO_MIN), math.log(RATIO_MAX), generator=rng)
    ratio = log_ratio.exp()  # width over height
    return torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2).round().long()


def _central_boxes(sizes: Tensor) -> Tensor:
    height, width = sizes.unbind(dim=1)
    box_height = torch.minimum(height, (width / RATIO_MIN).round().long())
    box_width = torch.minimum(width, (height * RATIO_MAX).round().long())
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return torch.stack([top, left, box_height, box_width], dim=1)
