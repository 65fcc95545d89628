"""Recipes of views: the papers' values, and what is written in a spec over them."""

import pytest
import torch

from ssl_sweep.data.images import Images
from ssl_sweep.data.recipes import DEFAULTS, RECIPES, complete_views, unusual
from ssl_sweep.data.views import Augment

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [8, 32, 33, 224])
def test_every_recipe_makes_views_of_every_size(name: str, size: int) -> None:
    views = complete_views(name, size, {})
    assert views.keys() == DEFAULTS.keys()
    images = Images(torch.randint(256, (3, 3, size, size), dtype=torch.uint8), torch.full((3, 2), size))
    view = Augment(size, **views).view(images, torch.Generator().manual_seed(0), second=True)
    assert view.shape == (3, 3, size, size)
    assert bool(view.isfinite().all())


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_blurs_images_of_32_pixels(name: str) -> None:
    views = complete_views(name, 32, {})
    assert (views["blur"], views["blur_second"]) == (0.0, None)


def test_recipes_have_the_papers_values() -> None:
    assert unusual(complete_views("none", 224, {})) == {}
    assert unusual(complete_views("moco_v2", 224, {})) == {**JITTER, "gray": 0.2, "blur": 0.5}
    assert unusual(complete_views("moco_v2", 32, {})) == {**JITTER, "gray": 0.2}
    strong = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
    assert unusual(complete_views("simclr", 96, {})) == {"crop_scale_min": 0.08, **strong, "gray": 0.2, "blur": 0.5}
    assert unusual(complete_views("simclr", 32, {})) == {"crop_scale_min": 0.08, **JITTER, "gray": 0.2}
    byol = {**JITTER, "saturation": 0.2, "gray": 0.2, "solarize_second": 0.2}
    assert unusual(complete_views("byol", 32, {})) == {**byol, "crop_scale_min": 0.08}
    assert unusual(complete_views("dino", 96, {})) == {**byol, "crop_scale_min": 0.4, "blur": 1.0, "blur_second": 0.1}
    assert unusual(complete_views("drlim", 32, {})) == {"flip": 0.0}


def test_what_is_written_replaces_the_recipes_values() -> None:
    views = complete_views("byol", 96, {"blur_second": None, "gray": 0.0, "overlay_alpha": 0.2})
    assert (views["blur"], views["blur_second"], views["gray"], views["overlay_alpha"]) == (1.0, None, 0.0, 0.2)
    assert complete_views("simclr", 32, {"blur": 0.5})["blur"] == 0.5
