"""The overlay paper's corruptions are views: contrastive and negative-free methods take them as they are."""

import importlib

import pytest
import torch
from torch import Generator, Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.encoders import Encoder

WHOLE = {"crop_scale_min": 1.0, "flip": 0.0}


def draw(name: str, encoder: Encoder, images: Images, **knobs: float) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    method = importlib.import_module(f"ssl_sweep.methods.{name}").Method(encoder)
    return method, method.views(images, Augment(16, **knobs), Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["moco", "simclr", "byol"])
def test_the_overlay_is_in_both_views(name: str, encoder: Encoder, images: Images) -> None:
    """Two images, no crop: x̂_i = α·x_j + (1 − α)·x_i, where j can only be the other one."""
    pair = Images(images.pixels[:2], images.sizes[:2])
    clean = pair.pixels / 255
    _, batch = draw(name, encoder, pair, overlay_alpha=0.3, **WHOLE)
    for view in ("first", "second"):
        torch.testing.assert_close(batch[view], 0.3 * clean.flip(0) + 0.7 * clean)


@pytest.mark.parametrize("name", ["moco", "simclr", "byol"])
def test_masks_are_in_both_views_and_differ(name: str, encoder: Encoder, images: Images) -> None:
    bright = Images(images.pixels.clamp(min=1), images.sizes)
    _, batch = draw(name, encoder, bright, mask_ratio=0.25, **WHOLE)
    masks = [(batch[view] == 0).all(dim=1) for view in ("first", "second")]
    assert all((mask.float().mean(dim=(1, 2)) == 0.25).all() for mask in masks)
    assert not torch.equal(*masks)


@pytest.mark.parametrize("name", ["moco", "simclr", "byol"])
def test_a_step_learns_from_both_corruptions(name: str, encoder: Encoder, images: Images) -> None:
    method, batch = draw(name, encoder, images, overlay_alpha=0.3, mask_ratio=0.25)
    loss, _ = method.loss(batch)
    loss.backward()
    assert loss.isfinite()
    assert method.encoder.net.conv1.weight.grad.abs().sum() > 0
