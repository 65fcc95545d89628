"""Random masking of patches, as in masked image modelling, or of pixels, as in the overlay paper's baseline."""

import math
from typing import Literal

import torch
from torch import Tensor

from ssl_sweep.data.rows import draw_others

MAX_BLOCKS, MAX_ASPECT = 24, 1 / 0.3  # blocks tried an image, and their largest aspect ratio

MaskFill = Literal["zero", "mean", "other"]


def check_mask(size: int, patch: int, ratio: float) -> None:
    """Raise ValueError if the patches do not tile the image, or if rounding masks nothing or everything."""
    if size % patch:
        raise ValueError(f"mask_patch: {patch} does not divide the image size {size}; take a divisor of it")
    count = (size // patch) ** 2
    if not 0 < round(ratio * count) < count:
        hidden = round(ratio * count)
        raise ValueError(
            f"mask_ratio: {ratio} of {count} patches masks {hidden}; take smaller patches or another ratio"
        )


def draw_mask(batch_size: int, rng: torch.Generator, size: int, patch: int, ratio: float) -> Tensor:
    """(B, 1, size, size) bool, true where masked: exactly round(ratio * number of patches) patches of each image."""
    side = size // patch
    scores = torch.rand(batch_size, side * side, generator=rng, device=rng.device)
    hidden = scores.topk(round(ratio * side * side), dim=1, sorted=False).indices
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, hidden, True)
    mask = mask.view(batch_size, 1, side, side)
    return mask.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)


def draw_blocks(batch_size: int, rng: torch.Generator, side: int, share_min: float, share_max: float) -> Tensor:
    """(B, side * side) bool, true where masked: for each image, with probability 1/2, blocks of neighbouring patches.

    They cover about a share drawn from [share_min, share_max], never more, and at least one patch. Blocks have an
    aspect ratio log-uniform in [0.3, 1/0.3] and, where they can, an area of (side // 3)² or more, as in BEiT (Bao et
    al. 2022, arXiv:2106.08254, algorithm 1).
    """
    device, steps = rng.device, torch.arange(side, device=rng.device)
    share, single, chosen = torch.rand(3, batch_size, generator=rng, device=device)
    quota = ((share_min + share * (share_max - share_min)) * side**2).round().clamp(min=1)
    mask = torch.zeros(batch_size, side, side, dtype=torch.bool, device=device)
    for drawn in torch.rand(MAX_BLOCKS, 4, batch_size, generator=rng, device=device):
        room = quota - mask.sum(dim=(1, 2))
        smallest = room.clamp(max=(side // 3) ** 2)
        area = smallest + drawn[0] * (room - smallest)
        ratio = ((2 * drawn[1] - 1) * math.log(MAX_ASPECT)).exp()
        extent = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()]).round().clamp(1, side)  # (2, B)
        start = (drawn[2:] * (side - extent + 1)).floor().minimum(side - extent)
        inside = (steps >= start.unsqueeze(2)) & (steps < (start + extent).unsqueeze(2))  # (2, B, side)
        block = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
        added = (block & ~mask).sum(dim=(1, 2))
        mask |= block & (added <= room).view(-1, 1, 1)
    flat: Tensor = mask.flatten(1)
    lone = (single * side**2).long().clamp(max=side**2 - 1).unsqueeze(1)  # where no block has fitted
    flat = flat.scatter(1, lone, flat.gather(1, lone) | ~flat.any(dim=1, keepdim=True))
    return flat.logical_and(chosen.unsqueeze(1) < 0.5)


def draw_fill(images: Tensor, fill: MaskFill, rng: torch.Generator) -> Tensor:
    """The content of the masked places of `images` (B, 3, S, S), broadcastable to it.

    `zero` is black, `mean` each image's mean colour (its edges disturb a convolution less than black ones), `other`
    the same place in another image of the batch.
    """
    if fill == "zero":
        return images.new_zeros(1)
    if fill == "mean":
        return images.mean(dim=(2, 3), keepdim=True)
    return images[draw_others(len(images), rng)]
