"""AutoAugment's ImageNet policy on a batch (Cubuk et al. 2019, arXiv:1805.09501, the appendix's ImageNet table).

Each sample draws one of 25 sub-policies: two operators, each with a probability and a magnitude. The operators work on
bytes, with nearest-neighbour rotation and black outside, and magnitudes are torchvision's. Samples that share an
operator are processed together.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sweep.data.color import away_from, grayscale, per_image
from ssl_sweep.data.rows import apply_in_order

Step = tuple[str, float, int]  # operator, probability, magnitude in 0..9 (0 where the operator has none)

POLICY: tuple[tuple[Step, Step], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep only the highest `bits` (n,) of each byte."""
    step = per_image(2 ** (8 - bits))
    return (images / step).floor_().mul_(step)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert bytes at and above the thresholds (n,)."""
    return torch.where(images >= per_image(thresholds), 255 - images, images)


def color(images: Tensor, strengths: Tensor) -> Tensor:
    """Away from grey by strengths (n,), or towards it where negative."""
    return stronger(grayscale(images).floor_(), images, strengths)


def contrast(images: Tensor, strengths: Tensor) -> Tensor:
    """Away from the mean grey by strengths (n,), or towards it where negative."""
    mean = grayscale(images).floor_().flatten(1).mean(dim=1)  # (n,)
    return stronger(per_image(mean), images, strengths)


def sharpness(images: Tensor, strengths: Tensor) -> Tensor:
    """Away from a smoothed image by strengths (n,), or towards it where negative; the outermost pixels stay."""
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=images.device)
    kernel[:, :, 1, 1] = 5 / 13
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel, groups=3).round_()
    return stronger(smooth, images, strengths)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Counter-clockwise about the centre by degrees (n,)."""
    angles = degrees.deg2rad()
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    return affine(images, torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3))


def shear_x(images: Tensor, levels: Tensor) -> Tensor:
    """Rows shifted left by levels (n,) pixels for each row below the top edge."""
    one, zero = torch.ones_like(levels), torch.zeros_like(levels)
    shift = levels * images.shape[-2] / 2
    return affine(images, torch.stack([one, levels, shift, zero, one, zero], dim=1).view(-1, 2, 3))


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel from its smallest and largest byte to 0..255."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = low == high
    stretched = (images - low) / torch.where(flat, 1, (high - low) * (1 / 255))
    return torch.where(flat, images, stretched.clamp_(0, 255).floor_())


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Flatten each channel's histogram by PIL's integer rule; channels too uniform for a step of 1 stay."""
    values = images.long().flatten(2)  # (n, 3, S * S)
    counts = values.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, torch.ones_like(values))
    top = counts.gather(2, values.amax(dim=2, keepdim=True))  # pixels with the brightest byte
    step = (values.shape[2] - top) // 255  # (n, 3, 1)
    below = counts.cumsum(dim=2) - counts  # (n, 3, 256), number of darker pixels
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    equal = table.gather(2, values).view(images.shape).to(images.dtype)
    return torch.where(step.unsqueeze(3) > 0, equal, images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Subtract every byte from 255."""
    return 255 - images


Operator = Callable[[Tensor, Tensor], Tensor]  # images (n, 3, S, S) of whole numbers 0..255 in float32, magnitudes (n,)
OPERATORS: dict[str, Operator] = {
    "posterize": posterize,
    "solarize": solarize,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
    "rotate": rotate,
    "shear_x": shear_x,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "invert": invert,
}
NAMES = tuple(OPERATORS)
SIGNED = ("color", "contrast", "sharpness", "rotate", "shear_x")


def magnitude_of(name: str, level: int) -> float:
    """The operator's argument at level 0..9: degrees, bits, bytes or a strength; 0 for operators without one."""
    fraction = level / 9
    if name == "posterize":
        return 8 - round(4 * fraction)
    if name == "solarize":
        return 255 * (9 - level) / 9
    full = {"color": 0.9, "contrast": 0.9, "sharpness": 0.9, "rotate": 30.0, "shear_x": 0.3}
    return full.get(name, 0.0) * fraction


def draw_policy(batch_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each sample two operators (B, 2) int64, indices into `NAMES` or -1 for none, and their magnitudes (B, 2)."""
    device = rng.device
    kinds, probabilities, magnitudes, signed = (column.to(device) for column in _policy_table())  # each (25, 2)
    policies = torch.randint(len(POLICY), (batch_size,), generator=rng, device=device)
    applied = torch.rand(batch_size, 2, generator=rng, device=device) < probabilities[policies]
    negative = torch.rand(batch_size, 2, generator=rng, device=device) < 0.5
    drawn = magnitudes[policies]
    drawn = torch.where(negative & signed[policies], -drawn, drawn)
    return torch.where(applied, kinds[policies], -1), drawn


def apply_policy(images: Tensor, kinds: Tensor, magnitudes: Tensor) -> Tensor:
    """Images (B, 3, S, S) in [0, 1], rounded to bytes, after their operators; `draw_policy` returns the arguments."""
    with torch.autocast(images.device.type, enabled=False):  # bf16 rounds bytes and pixel positions
        return apply_in_order((images * 255).round_(), tuple(OPERATORS.values()), kinds, magnitudes) / 255


def _policy_table() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kinds = [[NAMES.index(name) for name, _, _ in policy] for policy in POLICY]
    probabilities = [[probability for _, probability, _ in policy] for policy in POLICY]
    magnitudes = [[magnitude_of(name, level) for name, _, level in policy] for policy in POLICY]
    signed = [[name in SIGNED for name, _, _ in policy] for policy in POLICY]
    return torch.tensor(kinds), torch.tensor(probabilities), torch.tensor(magnitudes), torch.tensor(signed)


def stronger(base: Tensor, images: Tensor, strengths: Tensor) -> Tensor:
    """Bytes away from `base` by strengths (n,), or towards it where negative."""
    return away_from(base, images, 1 + strengths).clamp_(0, 255).floor_()


def affine(images: Tensor, to_source: Tensor) -> Tensor:
    """Nearest pixel of `to_source` (n, 2, 3) @ (x, y, 1), in pixels from the image's centre; black outside."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(_from_center(height, images), _from_center(width, images), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)  # (1, S * S, 3)
    half = torch.tensor([width / 2, height / 2], device=images.device)
    grid = places @ (to_source.transpose(1, 2) / half)
    return F.grid_sample(images, grid.view(-1, height, width, 2), mode="nearest", align_corners=False)


def _from_center(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device) - (length - 1) / 2
