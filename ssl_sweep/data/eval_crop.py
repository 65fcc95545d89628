"""How every evaluation sees an image: its short side resized, then the central square."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.resample import Interpolation, resample, square_window

PAPERS_FROM = 64  # pixels; at this size and above, the default is the papers' crop
PAPERS_RATIO = 256 / 224  # of the short side to the crop (He et al. 2016, and all that follow it on ImageNet)


class Crop(NamedTuple):
    """The sides in pixels and the filter of an evaluation's crop."""

    resize: int
    size: int
    interpolation: Interpolation


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EvalCrop:
    """The `data.eval_crop` section of a spec; null stands for a value that follows from `data.image_size`.

    Raises pydantic's ValidationError, a ValueError, if the crop is larger than the resized image.
    """

    resize: Annotated[int | None, Field(ge=8)] = None
    crop: Annotated[int | None, Field(ge=8)] = None
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        if self.resize is not None and self.crop is not None:
            _check(self.resize, self.crop)

    def at(self, image_size: int) -> Crop:
        """The crop for an encoder of images of this side.

        Raises:
            ValueError: the crop is larger than the resized image.
        """
        size = self.crop or image_size
        large = size >= PAPERS_FROM
        resize = self.resize or (round(size * PAPERS_RATIO) if large else size)
        _check(resize, size)
        return Crop(resize, size, self.interpolation or ("bicubic" if large else "bilinear"))


def _check(resize: int, crop: int) -> None:
    if resize < crop:
        raise ValueError(f"resize: {resize} is below the crop, {crop}; raise resize, or lower crop")


def eval_crop_of(section: Mapping[str, Any]) -> Crop:
    """The crop of a checked `data` section."""
    return EvalCrop(**(section.get("eval_crop") or {})).at(section["image_size"])


def plain_crop(image_size: int) -> Crop:
    """The short side resized to the image size itself: the default of small images."""
    return Crop(image_size, image_size, "bilinear")


def cut(images: Images, crop: Crop, rng: torch.Generator | None = None) -> Tensor:
    """The square of every image: (B, 3, size, size) float32 in [0, 1]; with a generator, one at a random place.

    A random square is cut from an image whose short side is at least 256/224 of the square's: else it had no room.
    """
    resize = crop.resize if rng is None else max(crop.resize, round(crop.size * PAPERS_RATIO))
    window = square_window(images.sizes, resize, crop.size, rng)
    return resample(images.pixels, window, crop.size, crop.interpolation)
