"""RandAugment on a batch (Cubuk et al. 2020, arXiv:1909.13719): each image draws two of fourteen operators.

Operators, magnitudes and signs are torchvision's: magnitude m of 30 gives every operator m/30 of its full strength.
"""

import torch
from torch import Tensor

from ssl_sweep.data.autoaugment import OPERATORS as AUTOAUGMENT
from ssl_sweep.data.autoaugment import Operator, affine, stronger
from ssl_sweep.data.rows import apply_in_order

LEVELS = 30
NUM_OPERATORS = 2  # of each image
SHIFT = 150 / 331  # of the image's side at full strength


def brightness(images: Tensor, strengths: Tensor) -> Tensor:
    """Away from black by strengths (n,), or towards it where negative."""
    return stronger(torch.zeros_like(images), images, strengths)


def shear_y(images: Tensor, levels: Tensor) -> Tensor:
    """Columns shifted up by levels (n,) pixels for each column right of the left edge."""
    one, zero = torch.ones_like(levels), torch.zeros_like(levels)
    shift = levels * images.shape[-1] / 2
    return affine(images, torch.stack([one, zero, zero, levels, one, shift], dim=1).view(-1, 2, 3))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift right by whole pixels (n,); black comes in."""
    one, zero = torch.ones_like(pixels), torch.zeros_like(pixels)
    return affine(images, torch.stack([one, zero, -pixels.trunc(), zero, one, zero], dim=1).view(-1, 2, 3))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift down by whole pixels (n,); black comes in."""
    one, zero = torch.ones_like(pixels), torch.zeros_like(pixels)
    return affine(images, torch.stack([one, zero, zero, zero, one, -pixels.trunc()], dim=1).view(-1, 2, 3))


SHARED = ("shear_x", "rotate", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize")
OPERATORS: dict[str, Operator] = {
    **{name: AUTOAUGMENT[name] for name in SHARED},
    "brightness": brightness,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
NAMES = tuple(OPERATORS)  # the fourteenth leaves the image as it is
_FULL = {
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.9),
    **dict.fromkeys(("shear_x", "shear_y"), 0.3),
    "rotate": 30.0,
}


def magnitude_of(name: str, level: int, side: int) -> float:
    """The operator's argument at level 0..30 on images of `side` pixels; 0 for operators without one."""
    share = level / LEVELS
    if name == "posterize":
        return 8 - round(4 * share)
    if name == "solarize":
        return 255 * (1 - share)
    if name.startswith("translate"):
        return SHIFT * side * share
    return _FULL.get(name, 0.0) * share


def draw_randaugment(batch_size: int, rng: torch.Generator, level: int, side: int) -> tuple[Tensor, Tensor]:
    """For each sample two operators (B, 2) int64, indices into `NAMES` or -1 for none, and their magnitudes (B, 2)."""
    device, shape = rng.device, (batch_size, NUM_OPERATORS)
    table = torch.tensor([magnitude_of(name, level, side) for name in NAMES], device=device)
    signed = torch.tensor([name in _FULL or name.startswith("translate") for name in NAMES], device=device)
    kinds = torch.randint(-1, len(NAMES), shape, generator=rng, device=device)
    negative = signed[kinds] & (torch.rand(shape, generator=rng, device=device) < 0.5)
    return kinds, torch.where(negative, -table[kinds], table[kinds])


def apply_randaugment(images: Tensor, kinds: Tensor, magnitudes: Tensor) -> Tensor:
    """Images (B, 3, S, S) in [0, 1], rounded to bytes, after their operators; `draw_randaugment` returns the rest."""
    with torch.autocast(images.device.type, enabled=False):  # bf16 rounds bytes and pixel positions
        return apply_in_order((images * 255).round_(), tuple(OPERATORS.values()), kinds, magnitudes) / 255
