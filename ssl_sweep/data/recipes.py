"""Views of published methods, by name: the values that `views.recipe` gives to the other knobs of `views`."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, fields
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from ssl_sweep.data.views import Augment

AUTO = "auto"  # the recipe that the method declares
NONE = "none"  # crops from 0.2 and flips alone: the defaults of `Augment`
SMALL_IMAGE = 32  # pixels; a blur of small images leaves nothing, and no recipe for CIFAR has one

RecipeName = Literal[
    "auto", "none", "moco_v2", "simclr", "byol", "dino", "swav", "mae", "simmim", "autoencoder", "drlim", "exemplar"
]  # fmt: skip


class ViewRecipe(NamedTuple):
    """Knobs of `views` that differ from their defaults, and further ones for images of at most 32 pixels."""

    knobs: Mapping[str, float]
    small: Mapping[str, float | None] = {}


_NO_BLUR: dict[str, float | None] = {"blur": 0.0, "blur_second": None}
_JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
_STRONG = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "gray": 0.2, "blur": 0.5}
_BYOL = {
    **_JITTER, "saturation": 0.2, "gray": 0.2, "blur": 1.0, "blur_second": 0.1, "solarize_second": 0.2,
}  # fmt: skip

RECIPES: dict[str, ViewRecipe] = {
    NONE: ViewRecipe({}),
    # Chen et al. 2020, arXiv:2003.04297, whose CIFAR-10 notebook has no blur; SimSiam and LeOCLR take it over
    "moco_v2": ViewRecipe({**_JITTER, "gray": 0.2, "blur": 0.5}, _NO_BLUR),
    # Chen et al. 2020, arXiv:2002.05709, appendix A: colour strength 1; on CIFAR-10 (appendix B.9) 0.5 and no blur
    "simclr": ViewRecipe({**_STRONG, "crop_scale_min": 0.08}, {**_JITTER, **_NO_BLUR}),
    # Caron et al. 2020, arXiv:2006.09882, appendix A: the global crops; SimCLR's colours. *Open*, ours: small images
    # as SimCLR's
    "swav": ViewRecipe({**_STRONG, "crop_scale_min": 0.14}, {**_JITTER, **_NO_BLUR}),
    # Grill et al. 2020, arXiv:2006.07733, appendix B; Barlow Twins, VICReg and MoCo-v3 take it over. *Open*, ours: no
    # blur of small images
    "byol": ViewRecipe({**_BYOL, "crop_scale_min": 0.08}, _NO_BLUR),
    # Caron et al. 2021, arXiv:2104.14294: the global crops; BYOL's colours. *Open*, ours: no blur of small images
    "dino": ViewRecipe({**_BYOL, "crop_scale_min": 0.4}, _NO_BLUR),
    # He et al. 2022, arXiv:2111.06377, table 8: random resized crops from 0.2 and flips
    "mae": ViewRecipe({"crop_scale_min": 0.2}),
    # Xie et al. 2022, arXiv:2111.09886, section 4.1: random resized crops from 0.67 and flips
    "simmim": ViewRecipe({"crop_scale_min": 0.67}),
    # Li, Ding & Wang 2023 give no smallest crop: *open*, torchvision's default. The corruption is the search's
    "autoencoder": ViewRecipe({"crop_scale_min": 0.08}),
    # Hadsell, Chopra & LeCun 2006, and Dosovitskiy et al. 2014: images are not mirrored
    "drlim": ViewRecipe({"flip": 0.0}),
    "exemplar": ViewRecipe({"flip": 0.0}),
}
assert set(get_args(RecipeName)) == {AUTO, *RECIPES}  # noqa: S101 - one cannot be made from the other for mypy

DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Augment) if field.name != "image_size"}


@dataclass(frozen=True)
class _Named:
    _: KW_ONLY
    recipe: Annotated[
        RecipeName,
        Field(
            description="views of a published method, as values of the other knobs, which a value written here "
            "replaces; auto: those of the method's own paper; none: the defaults below"
        ),
    ] = "auto"


@dataclass(frozen=True)
class Views(Augment, _Named):
    """The `views` section of a spec: the knobs of `Augment`, and a recipe that gives values to those not written."""


def complete_views(recipe: str, image_size: int, written: Mapping[str, Any]) -> dict[str, Any]:
    """Every knob of `Augment`: those `written`, else the recipe's, whose name is in `RECIPES`."""
    knobs, small = RECIPES[recipe]
    return {**DEFAULTS, **knobs, **(small if image_size <= SMALL_IMAGE else {}), **written}


def unusual(views: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of complete views that differ from recipe none, for people to read."""
    return {name: value for name, value in views.items() if value != DEFAULTS.get(name)}
