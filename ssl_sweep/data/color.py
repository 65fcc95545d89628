"""Colour operators on (B, 3, S, S) float32 images in [0, 1], each sample with its own strength.

Formulas and clamping are torchvision's, so that its recipes mean the same here.
"""

import torch
from torch import Tensor

from ssl_sweep.data.rows import apply_in_order, draw_bernoulli, rows_where
from ssl_sweep.data.taps import Taps, filter_axes

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma, rounded as in PIL and torchvision
TINY = 1e-12  # below any nonzero chroma of float32 images: grey pixels divide 0 by it and get hue 0


def grayscale(images: Tensor) -> Tensor:
    """Luma as (B, 1, S, S)."""
    red, green, blue = images.unbind(dim=1)
    weights = GRAY_WEIGHTS
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).unsqueeze(1)


def make_gray(images: Tensor) -> Tensor:
    """Luma in all three channels, (B, 3, S, S)."""
    return grayscale(images).expand(-1, 3, -1, -1)


def per_image(values: Tensor) -> Tensor:
    """One value for each image, (B,) or (B, ...) of one element each, as (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def away_from(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Move `images` away from `base` by factors (B,) above 1, towards it by those below 1; values may leave [0, 1]."""
    return (images * per_image(factors)).add_(per_image(1 - factors) * base)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Towards black; factors (B,) >= 0, 1 changes nothing."""
    return (images * per_image(factors)).clamp_(max=1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the image's mean luma; factors (B,) >= 0, 1 changes nothing."""
    mean = grayscale(images).flatten(1).mean(dim=1)  # (B,)
    return away_from(per_image(mean), images, factors).clamp_(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Towards each pixel's luma; factors (B,) >= 0, 1 changes nothing."""
    return away_from(grayscale(images), images, factors).clamp_(0, 1)


def adjust_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift the hue by shifts (B,) in [-0.5, 0.5] of the colour circle, in HSV with the same value and saturation."""
    red, green, blue = images.unbind(dim=1)  # each (B, S, S)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Chroma times the hue, in sixths of the circle, counted from the largest channel. lerp with weights of exactly 0
    # and 1 chooses it: on a CPU comparisons and `where` would take most of the time.
    from_green, from_blue = blue - red + 2 * chroma, red - green + 4 * chroma
    turned = torch.lerp(from_green, from_blue, (value - green).sign_())
    turned = torch.lerp(green - blue, turned, (value - red).sign_())
    hue = turned.div_(chroma.clamp(min=TINY)).add_(6 * shifts.view(-1, 1, 1))
    hue.sub_(6 * torch.floor(hue / 6))
    # a channel is below `value` by the chroma outside its third of the circle, with ramps of a sixth
    falls = (2 - (hue - 3).abs_(), (hue - 2).abs_().sub_(1), (hue - 4).abs_().sub_(1))
    channels = [torch.addcmul(value, chroma, fall.clamp_(0, 1), value=-1) for fall in falls]
    return torch.stack(channels, dim=1).clamp_(min=0)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert values at and above the threshold."""
    return torch.where(images >= threshold, 1 - images, images)


JITTERS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def draw_jitter(
    batch_size: int, rng: torch.Generator, probability: float, strengths: tuple[float, float, float, float]
) -> tuple[Tensor, Tensor]:
    """For each sample the order of `JITTERS` (B, 4) int64, -1 for none, and their factors (B, 4).

    Factors are uniform in 1 ± strength, not below 0; the hue's shift is in ± strength. The order is a random
    permutation of the operators whose strength is not 0, and all -1 for samples without jitter.
    """
    device = rng.device
    brightness, contrast, saturation, hue = strengths
    lowest = torch.tensor([max(0.0, 1 - s) for s in (brightness, contrast, saturation)] + [-hue], device=device)
    highest = torch.tensor([1 + s for s in (brightness, contrast, saturation)] + [hue], device=device)
    active = torch.tensor([s > 0 for s in strengths], device=device)
    order = torch.rand(batch_size, 4, generator=rng, device=device).argsort(dim=1)
    factors = lowest[order] + (highest - lowest)[order] * torch.rand(batch_size, 4, generator=rng, device=device)
    applied = draw_bernoulli(batch_size, rng, probability).unsqueeze(1)
    return torch.where(applied & active[order], order, -1), factors


def jitter(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each sample in its own order; `draw_jitter` returns the arguments."""
    return apply_in_order(images, JITTERS, order, factors)


def draw_sigmas(batch_size: int, rng: torch.Generator, probability: float, lowest: float, highest: float) -> Tensor:
    """Strengths (B,) of a blur, uniform in [lowest, highest] pixels with `probability`, else 0."""
    rows = rows_where(draw_bernoulli(batch_size, rng, probability))
    sigmas = torch.zeros(batch_size, device=rng.device)
    sigmas[rows] = torch.empty(len(rows), device=rng.device).uniform_(lowest, highest, generator=rng)
    return sigmas


def blur_kernel_size(image_size: int) -> int:
    """Odd, about a tenth of the image's side, 23 at 224 (SimCLR, Chen et al. 2020, arXiv:2002.05709, appendix A)."""
    return max(3, image_size // 10 // 2 * 2 + 1)


def gaussian_blur(images: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    """Gaussian blur by sigmas (B,) in pixels, edges reflected."""
    size, reach = images.shape[-1], kernel_size // 2
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    weights = (-0.5 * (offsets / sigmas.unsqueeze(1)) ** 2).softmax(dim=1)  # (B, kernel_size)
    pixels = (torch.arange(size, device=images.device).unsqueeze(1) + offsets).abs()  # (S, kernel_size)
    pixels = torch.where(pixels >= size, 2 * (size - 1) - pixels, pixels)
    shape = (len(images), size, kernel_size)
    taps = Taps(pixels.expand(shape), weights.unsqueeze(1).expand(shape))
    return filter_axes(images, taps, taps).clamp(max=1)
