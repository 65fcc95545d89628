"""Exemplar-CNN's transforms, each against torchvision's operator or the formula in the test."""

import colorsys
import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as tvf

from ssl_sweep.data.seed_patches import (
    Ranges,
    Transforms,
    busiest_corners,
    change_saturation_and_value,
    cut_patches,
    scale_principal_colors,
    transformed_patches,
)

PAPER = Ranges(
    shift=0.2,
    scale_min=0.7,
    scale_max=1.4,
    rotation=20.0,
    contrast=2.0,
    power=4.0,
    factor_min=0.7,
    factor_max=1.4,
    offset=0.1,
    hue=0.1,
)
FIELDS = {
    "moves": (-0.2, 0.2, 2),
    "scales": (0.7, 1.4, 1),
    "angles": (-math.radians(20), math.radians(20), 1),
    "contrasts": (0.5, 2.0, 3),
    "powers": (0.25, 4.0, 2),
    "factors": (0.7, 1.4, 2),
    "offsets": (-0.1, 0.1, 2),
    "hues": (-0.1, 0.1, 1),
}


def images(size: int, count: int = 3) -> Tensor:
    return torch.rand(count, 3, size, size, generator=Generator().manual_seed(0))


def nothing(count: int) -> Transforms:
    """The transform that changes nothing."""
    zero, one = torch.zeros(count, 2), torch.ones(count, 2)
    return Transforms(zero, one[:, 0], zero[:, 0], torch.ones(count, 3), one, one, zero, zero[:, 0])


def test_draws_fill_the_ranges_and_are_independent() -> None:
    drawn = PAPER.draw(4000, Generator().manual_seed(1))
    columns = []
    for (name, (low, high, width)), values in zip(FIELDS.items(), drawn, strict=True):
        assert name in Transforms._fields
        values = values.view(4000, width)
        assert low <= values.min() <= low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) <= values.max() <= high
        columns.append(values)
    correlations = torch.corrcoef(torch.cat(columns, dim=1).T)
    assert (correlations - torch.eye(14)).abs().max() < 0.06


@pytest.mark.parametrize("field", ["contrasts", "powers"])
def test_factors_below_one_are_as_likely_as_those_above(field: str) -> None:
    values = getattr(PAPER.draw(4000, Generator().manual_seed(0)), field)
    assert abs((values < 1).float().mean() - 0.5) < 0.03


def test_the_busiest_window_has_the_most_gradient() -> None:
    """Against a search over all windows; windows at the border take part."""
    x = images(12, 6) * F.interpolate(images(4, 6), size=12)
    gray = 0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for row, corner in enumerate(busiest_corners(x, 5).tolist()):
        energies = {}
        for top in range(8):
            for left in range(8):
                down = gray[row, top : top + 6, left : left + 5].diff(dim=0).square().sum()
                right = gray[row, top : top + 5, left : left + 6].diff(dim=1).square().sum()
                energies[(top, left)] = float(down + right)
        assert tuple(corner) == max(energies, key=lambda place: energies[place])


def test_a_patch_of_the_images_size_is_the_image() -> None:
    assert torch.equal(busiest_corners(images(8), 8), torch.zeros(3, 2, dtype=torch.int64))


def test_nothing_drawn_cuts_the_patch_out() -> None:
    x, corners = images(20), torch.tensor([[0, 0], [3, 9], [12, 12]])
    expected = torch.stack([image[:, t : t + 8, left : left + 8] for image, (t, left) in zip(x, corners, strict=True)])
    torch.testing.assert_close(transformed_patches(x, corners, 8, nothing(3)), expected, atol=1e-5, rtol=0)


def test_a_move_is_in_patch_sides_to_the_right_and_down() -> None:
    x, corners = images(20), torch.full((3, 2), 5)
    drawn = nothing(3)._replace(moves=torch.tensor([[0.25, -0.125]]).repeat(3, 1))
    found = transformed_patches(x, corners, 8, drawn)
    torch.testing.assert_close(found, x[:, :, 4:12, 7:15], atol=1e-5, rtol=0)


def test_scale_and_angle_are_torchvisions() -> None:
    """torchvision turns and scales the content, here the window turns and grows: the inverse of both."""
    x, angle, scale = images(24, 1), 17.0, 1.25
    found = cut_patches(
        x, torch.tensor([[6, 6]]), 12, torch.zeros(1, 2), torch.tensor([scale]), torch.tensor([math.radians(angle)])
    )
    expected = tvf.affine(x, -angle, [0, 0], 1 / scale, [0.0, 0.0], interpolation=tvf.InterpolationMode.BILINEAR)[
        :, :, 6:18, 6:18
    ]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_beyond_the_edge_the_image_is_mirrored() -> None:
    x = images(8, 1)
    found = cut_patches(x, torch.zeros(1, 2), 8, torch.tensor([[0.25, 0.0]]), torch.ones(1), torch.zeros(1))
    expected = torch.cat([x[..., 2:], x[..., -2:].flip(3)], dim=3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_principal_colors_are_scaled_each_by_its_factor() -> None:
    """The covariance of the colours afterwards is U diag(f² λ) Uᵀ, their mean what it was."""
    x = images(8) * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1) + images(8).roll(1, 1) * 0.2
    factors = torch.tensor([[0.5, 1.0, 2.0], [2.0, 0.7, 0.5], [1.0, 1.0, 1.0]])
    found = scale_principal_colors(x, factors)
    torch.testing.assert_close(found.mean(dim=(2, 3)), x.mean(dim=(2, 3)))
    for before, after, factor in zip(x.flatten(2), found.flatten(2), factors, strict=True):
        values, vectors = torch.linalg.eigh(torch.cov(before))
        expected = vectors @ torch.diag(factor**2 * values) @ vectors.T
        torch.testing.assert_close(torch.cov(after), expected, atol=1e-6, rtol=1e-4)


def test_grey_patches_stay_grey() -> None:
    gray = images(8)[:, :1].expand(-1, 3, -1, -1)
    found = scale_principal_colors(gray, torch.tensor([[0.5, 0.8, 2.0]] * 3))
    torch.testing.assert_close(found[:, 0], found[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 0], found[:, 2], atol=1e-5, rtol=0)


def test_saturation_and_value_are_changed_in_hsv() -> None:
    """Pixel by pixel against Python's colour conversion."""
    x = images(4, 2)
    powers, factors = torch.tensor([[0.25, 2.0], [4.0, 0.5]]), torch.tensor([[1.4, 0.7], [0.9, 1.1]])
    offsets = torch.tensor([[-0.1, 0.1], [0.05, -0.02]])
    found = change_saturation_and_value(x, powers, factors, offsets)
    for row in range(2):
        for place in range(16):
            h, s, v = colorsys.rgb_to_hsv(*x[row, :, place // 4, place % 4].tolist())
            s, v = (
                min(max(value ** float(powers[row, i]) * float(factors[row, i]) + float(offsets[row, i]), 0), 1)
                for i, value in enumerate((s, v))
            )
            expected = torch.tensor(colorsys.hsv_to_rgb(h, s, v))
            torch.testing.assert_close(found[row, :, place // 4, place % 4], expected, atol=1e-5, rtol=0)


def test_the_hue_is_torchvisions() -> None:
    x = images(8, 1)
    found = transformed_patches(x, torch.zeros(1, 2), 8, nothing(1)._replace(hues=torch.tensor([0.08])))
    torch.testing.assert_close(found, tvf.adjust_hue(x, 0.08), atol=1e-4, rtol=0)


@pytest.mark.parametrize("x", [torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8), images(8, 2).round()])
def test_flat_and_extreme_patches_stay_in_range(x: Tensor) -> None:
    found = transformed_patches(x, busiest_corners(x, 6), 6, PAPER.draw(2, Generator().manual_seed(0)))
    assert found.isfinite().all()
    assert 0 <= found.min() <= found.max() <= 1
