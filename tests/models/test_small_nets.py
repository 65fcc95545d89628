"""The nets of DrLIM and Exemplar-CNN: layers, shapes, and what their features mean."""

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.models.small_nets import DrlimEncoder, ExemplarEncoder, quadrant_maxima


def images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("image_size", [16, 28, 32, 47, 64, 96])
@pytest.mark.parametrize("name", ["drlim", "exemplar"])
@torch.no_grad()
def test_the_shapes_are_as_promised(name: str, image_size: int) -> None:
    encoder = ENCODERS[name](image_size)
    x = images(image_size)
    assert encoder.feature_map(x).shape == (2, *encoder.map_shape)
    assert encoder(x).shape == (2, encoder.feature_dim)


def convolutions(net: nn.Module) -> list[tuple[int, int, tuple[int, ...]]]:
    return [(m.in_channels, m.out_channels, m.kernel_size) for m in net.modules() if isinstance(m, nn.Conv2d)]


def test_drlims_layers_are_the_papers_at_32_pixels() -> None:
    encoder = DrlimEncoder(32)
    assert convolutions(encoder) == [(1, 15, (6, 6)), (15, 30, (9, 9)), (30, 2, (1, 1))]
    assert encoder(images(32)).shape == (2, 2)
    assert DrlimEncoder(32, dim=5)(images(32)).shape == (2, 5)


def test_drlim_does_not_see_colour() -> None:
    encoder = DrlimEncoder(32)
    x = images(32)
    gray = (0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).unsqueeze(1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(encoder(x), encoder(gray), rtol=0, atol=1e-4)  # the weights sum to 0.9999


def test_exemplars_layers_are_the_papers() -> None:
    assert convolutions(ExemplarEncoder(32)) == [(3, 64, (5, 5)), (64, 64, (5, 5)), (64, 128, (5, 5))]


@torch.no_grad()
def test_every_place_of_exemplars_map_is_its_patch() -> None:
    encoder = ExemplarEncoder(48)
    assert encoder.map_shape == (128, 5, 5)
    x = images(48)
    for row, column in [(0, 0), (1, 3), (4, 4)]:
        patch = x[:, :, 4 * row : 4 * row + 32, 4 * column : 4 * column + 32]
        torch.testing.assert_close(encoder.feature_map(x)[:, :, row, column], encoder.feature_map(patch)[:, :, 0, 0])


def test_quadrant_maxima_are_those_of_the_four_quarters() -> None:
    x = images(6)
    quarters = [x[:, :, rows, columns] for rows in (slice(3), slice(3, 6)) for columns in (slice(3), slice(3, 6))]
    expected = torch.stack([quarter.amax(dim=(2, 3)) for quarter in quarters], dim=2)  # (B, C, 4)
    assert torch.equal(quadrant_maxima(x), expected.flatten(1))


@torch.no_grad()
def test_exemplars_features_are_the_quadrants_of_all_layers() -> None:
    encoder = ExemplarEncoder(64)
    first, second, last = (encoder.net.get_submodule(name) for name in ("conv1", "conv2", "full"))
    x = images(64)
    one = first(x)
    two = second(one)
    expected = torch.cat([quadrant_maxima(one), quadrant_maxima(two), quadrant_maxima(last(two))], dim=1)
    assert torch.equal(encoder(x), expected)


@pytest.mark.parametrize(("name", "size", "least"), [("drlim", 7, 8), ("exemplar", 15, 16)])
def test_images_that_are_too_small_are_refused(name: str, size: int, least: int) -> None:
    with pytest.raises(
        ValueError, match=f"image_size: {size} is too small for the {name} encoder; use {least} or more"
    ):
        ENCODERS[name](size)
    ENCODERS[name](least)


def test_an_image_smaller_than_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images of \(24, 24\) pixels are smaller than its patch of 32"):
        ExemplarEncoder(32)(images(24))
