"""Random views of images, batched on the device, each image with its own random parameters."""

from dataclasses import KW_ONLY
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ssl_sweep.data.autoaugment import apply_policy, draw_policy
from ssl_sweep.data.color import (
    blur_kernel_size,
    draw_jitter,
    draw_sigmas,
    gaussian_blur,
    jitter,
    make_gray,
    solarize,
)
from ssl_sweep.data.crop import draw_boxes
from ssl_sweep.data.images import Images, RowSampler
from ssl_sweep.data.mask import MaskFill, check_mask, draw_fill, draw_mask
from ssl_sweep.data.resample import Window, center, crop_window, mirrored, overlay, resample, whole_window
from ssl_sweep.data.rows import change_rows, draw_bernoulli, draw_others, rows_where

__all__ = ["Augment", "center"]

Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Augment:
    """Random views of size `image_size`; the knobs are the `views` section of a spec. Disabled steps cost nothing.

    The steps, in this order: overlay with another image, crop, flip, colour jitter in a random order, greyscale, blur,
    solarisation, AutoAugment, mask. By default a view is only cropped and flipped; `recipes.py` has the values of
    published methods.

    A worker makes the views of its share of a batch only. Random parameters are drawn for the whole batch, so that
    every image has the view that it would have on one worker.

    Raises pydantic's ValidationError, a ValueError, if a knob is out of its bounds.
    """

    image_size: Annotated[int, Field(ge=1, description="side of a view in pixels")]
    _: KW_ONLY
    crop_scale_min: Annotated[float, Field(gt=0, le=1, description="smallest crop, share of the image's area")] = 0.2
    crop_scale_max: Annotated[float, Field(gt=0, le=1, description="largest crop, share of the image's area")] = 1.0
    flip: Annotated[Probability, Field(description="probability of mirroring left-right")] = 0.5
    overlay_alpha: Annotated[
        float, Field(ge=0, lt=0.5, description="weight of another image overlaid on this one, which must dominate")
    ] = 0.0
    mask_ratio: Annotated[float, Field(ge=0, le=0.95, description="share of patches that are masked")] = 0.0
    mask_patch: Annotated[int, Field(ge=1, description="side of a mask's patch in pixels; 1 masks single pixels")] = 1
    mask_fill: Annotated[
        MaskFill, Field(description="content of masked places: black, the image's mean colour, or another image")
    ] = "zero"
    auto_augment: Annotated[bool, Field(description="AutoAugment's ImageNet policy")] = False
    brightness: Annotated[float, Field(ge=0, le=1, description="jitter: factor within 1 ± this")] = 0.0
    contrast: Annotated[float, Field(ge=0, le=1, description="jitter: factor within 1 ± this")] = 0.0
    saturation: Annotated[float, Field(ge=0, le=1, description="jitter: factor within 1 ± this")] = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5, description="jitter: shift within ± this part of the circle")] = 0.0
    jitter_probability: Annotated[Probability, Field(description="probability of all four jitters together")] = 0.8
    gray: Annotated[Probability, Field(description="probability of greyscale")] = 0.0
    blur: Annotated[Probability, Field(description="probability of a Gaussian blur")] = 0.0
    blur_second: Annotated[Probability | None, Field(description="blur of second views; null: as for first")] = None
    blur_sigma_min: Annotated[float, Field(gt=0, description="weakest blur, pixels")] = 0.1
    blur_sigma_max: Annotated[float, Field(gt=0, description="strongest blur, pixels")] = 2.0
    solarize: Annotated[Probability, Field(description="probability of inverting bright values")] = 0.0
    solarize_second: Annotated[
        Probability | None, Field(description="solarize for the second view of an image; null: as for the first")
    ] = None
    solarize_threshold: Annotated[float, Field(ge=0, le=1, description="brightness from which values invert")] = 0.5

    def __post_init__(self) -> None:
        for low, high in (("crop_scale_min", "crop_scale_max"), ("blur_sigma_min", "blur_sigma_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}: {getattr(self, low)} is above {high} {getattr(self, high)}; lower it")
        if self.mask_ratio:
            check_mask(self.image_size, self.mask_patch, self.mask_ratio)

    def view(self, images: Images, rng: torch.Generator, *, second: bool = False) -> Tensor:
        """One random view of each image: (B, 3, S, S) float32 in [0, 1]; `second` uses the knobs of second views."""
        if self._needs_global_batch(images):
            return images.local_rows(self.view(images.global_batch(), rng, second=second))
        window = self._draw_window(images, rng)
        return self._corrupt(self._cut(images, window), images, window, rng, second=second)

    def pair(self, images: Images, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A view and its clean crop, with the same box and flip: two (B, 3, S, S); one tensor if nothing corrupts."""
        if self._needs_global_batch(images):
            corrupted, clean = self.pair(images.global_batch(), rng)
            return images.local_rows(corrupted), images.local_rows(clean)
        window = self._draw_window(images, rng)
        clean = self._cut(images, window)
        return self._corrupt(clean, images, window, rng), clean

    def whole(self, images: Images, rng: torch.Generator) -> Tensor:
        """A view of the whole image, stretched to a square: (B, 3, S, S) float32 in [0, 1] (LeOCLR's query)."""
        if self._needs_global_batch(images):
            return images.local_rows(self.whole(images.global_batch(), rng))
        window = self._flip(whole_window(images.sizes), images.sampler(rng))
        return self._corrupt(self._cut(images, window), images, window, rng)

    def _needs_global_batch(self, images: Images) -> bool:
        """Whether views of these images contain parts of other workers' views."""
        return images.shard is not None and self.mask_ratio > 0 and self.mask_fill == "other"

    def _draw_window(self, images: Images, rng: torch.Generator) -> Window:
        boxes = draw_boxes(images.all_sizes, rng, self.crop_scale_min, self.crop_scale_max)
        return self._flip(crop_window(images.local_rows(boxes)), images.sampler(rng))

    def _flip(self, window: Window, sample: RowSampler) -> Window:
        return mirrored(window, sample(draw_bernoulli, self.flip)) if self.flip else window

    def _cut(self, images: Images, window: Window) -> Tensor:
        return resample(images.pixels, window, self.image_size)

    def _corrupt(
        self, clean: Tensor, images: Images, window: Window, rng: torch.Generator, *, second: bool = False
    ) -> Tensor:
        view, sample = clean, images.sampler(rng)
        if self.overlay_alpha:
            view = overlay(clean, images, window, sample(draw_others), self.overlay_alpha)
        view = self._recolor(view, sample)
        view = self._blur(view, sample, self.blur_second if second else None)
        view = self._solarize(view, sample, self.solarize_second if second else None)
        if self.auto_augment:
            view = apply_policy(view, *sample(draw_policy))
        if self.mask_ratio:
            mask = sample(draw_mask, self.image_size, self.mask_patch, self.mask_ratio)
            view = torch.where(mask, draw_fill(view, self.mask_fill, rng), view)
        return view

    def _recolor(self, view: Tensor, sample: RowSampler) -> Tensor:
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if any(strengths) and self.jitter_probability:
            view = jitter(view, *sample(draw_jitter, self.jitter_probability, strengths))
        if self.gray:
            view = change_rows(view, rows_where(sample(draw_bernoulli, self.gray)), make_gray)
        return view

    def _blur(self, view: Tensor, sample: RowSampler, of_second: float | None) -> Tensor:
        probability = self.blur if of_second is None else of_second
        if not probability:
            return view
        sigmas = sample(draw_sigmas, probability, self.blur_sigma_min, self.blur_sigma_max)
        rows = rows_where(sigmas > 0)
        blur = partial(gaussian_blur, kernel_size=blur_kernel_size(self.image_size))
        return change_rows(view, rows, blur, sigmas[rows])

    def _solarize(self, view: Tensor, sample: RowSampler, of_second: float | None) -> Tensor:
        probability = self.solarize if of_second is None else of_second
        if not probability:
            return view
        rows = rows_where(sample(draw_bernoulli, probability))
        return change_rows(view, rows, partial(solarize, threshold=self.solarize_threshold))
