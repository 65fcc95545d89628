"""Random masking of patches, as in masked image modelling, or of pixels, as in the overlay paper's baseline."""

from typing import Literal

import torch
from torch import Tensor

from ssl_sweep.data.rows import draw_others

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
