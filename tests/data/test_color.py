"""Colour operators against torchvision's functional ones, given the same factors."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ssl_sweep.data.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur_kernel_size,
    draw_jitter,
    gaussian_blur,
    jitter,
    make_gray,
    solarize,
)
from ssl_sweep.data.rows import change_rows, draw_bernoulli, draw_others, rows_of_each, rows_where

BY_NAME = {
    "brightness": (adjust_brightness, tv.adjust_brightness, [0.0, 0.6, 1.0, 1.8]),
    "contrast": (adjust_contrast, tv.adjust_contrast, [0.0, 0.6, 1.0, 1.8]),
    "saturation": (adjust_saturation, tv.adjust_saturation, [0.0, 0.6, 1.0, 1.8]),
    "hue": (adjust_hue, tv.adjust_hue, [-0.5, -0.1, 0.0, 0.07, 1 / 3, 0.5]),
}


def pictures(count: int, size: int = 24) -> Tensor:
    """Random images with bytes, coarse values, greys, black and white among them."""
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[0] = (images[0] * 255).round() / 255
    images[-1] = (images[-1] * 3).round() / 3
    images[:, :, :4] = images[:, :1, :4]
    images[:, :, 4], images[:, :, 5] = 0, 1
    return images


@pytest.mark.parametrize("name", BY_NAME)
def test_jitters_are_torchvisions(name: str) -> None:
    ours, theirs, factors = BY_NAME[name]
    images = pictures(len(factors))
    expected = torch.stack([theirs(image, factor) for image, factor in zip(images, factors, strict=True)])
    torch.testing.assert_close(ours(images, torch.tensor(factors)), expected, atol=2e-6, rtol=0)


def test_hue_keeps_greys_and_goes_round() -> None:
    images = pictures(4)
    grey = images[:, :1].expand(-1, 3, -1, -1)
    shifts = torch.tensor([-0.4, 0.1, 0.25, 0.5])
    torch.testing.assert_close(adjust_hue(grey, shifts), grey)
    there = adjust_hue(images, shifts)
    assert (there - images).abs().amax() > 0.5
    torch.testing.assert_close(adjust_hue(there, -shifts), images, atol=3e-6, rtol=0)


def test_every_sample_meets_the_jitters_in_its_own_order() -> None:
    orders = list(itertools.permutations(range(4)))
    images = pictures(len(orders) + 2, 12)
    factors = 0.6 + 0.8 * torch.rand(len(images), 4, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([*orders, (2, -1, 0, -1), (-1, -1, -1, -1)])
    factors[order == 3] -= 1
    changed = jitter(images, order, factors)
    theirs = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for index, kinds in enumerate(order.tolist()):
        expected = images[index]
        for kind, factor in zip(kinds, factors[index].tolist(), strict=True):
            expected = theirs[kind](expected, factor) if kind >= 0 else expected
        torch.testing.assert_close(changed[index], expected, atol=5e-6, rtol=0)
    assert torch.equal(changed[-1], images[-1])


def test_jitter_is_drawn_within_its_strengths_in_any_order() -> None:
    order, factors = draw_jitter(6000, torch.Generator().manual_seed(0), 0.8, (0.4, 0.3, 0.0, 0.1))
    for kind, (low, high) in {0: (0.6, 1.4), 1: (0.7, 1.3), 3: (-0.1, 0.1)}.items():
        drawn = factors[order == kind]
        assert low - 1e-6 <= drawn.min() <= low + 0.01
        assert high - 0.01 <= drawn.max() <= high + 1e-6
    met = [tuple(kind for kind in kinds if kind >= 0) for kinds in order.tolist()]
    counts = Counter(met)
    assert counts[()] / 6000 == pytest.approx(0.2, abs=0.02)
    assert set(counts) == {(), *itertools.permutations((0, 1, 3))}
    assert all(counts[kinds] / 6000 == pytest.approx(0.8 / 6, abs=0.02) for kinds in counts if kinds)


def test_strong_jitter_never_turns_negative() -> None:
    order, factors = draw_jitter(500, torch.Generator().manual_seed(0), 1.0, (1.0, 1.0, 1.0, 0.5))
    assert factors[order < 3].min() >= 0


def test_gray_is_torchvisions() -> None:
    images = pictures(3)
    torch.testing.assert_close(make_gray(images), tv.rgb_to_grayscale(images, 3), atol=1e-6, rtol=0)


def test_solarize_is_torchvisions() -> None:
    images = pictures(3)
    torch.testing.assert_close(solarize(images, 0.5), tv.solarize(images, 0.5), atol=0, rtol=0)


@pytest.mark.parametrize(("size", "kernel_size"), [(24, 3), (32, 7), (24, 23)])
def test_blur_is_torchvisions(size: int, kernel_size: int) -> None:
    images = pictures(4, size)
    sigmas = [0.1, 0.7, 1.3, 2.0]
    expected = [tv.gaussian_blur(i, [kernel_size] * 2, [s, s]) for i, s in zip(images, sigmas, strict=True)]
    blurred = gaussian_blur(images, torch.tensor(sigmas), kernel_size)
    torch.testing.assert_close(blurred, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("image_size", "kernel_size"), [(8, 3), (32, 3), (64, 7), (96, 9), (224, 23)])
def test_blur_reaches_over_a_tenth_of_the_image(image_size: int, kernel_size: int) -> None:
    assert blur_kernel_size(image_size) == kernel_size


def test_change_rows_touches_only_its_rows_and_not_its_argument() -> None:
    images = pictures(9, 8)
    before = images.clone()
    rows = torch.tensor([1, 4, 7])
    changed = change_rows(images, rows, adjust_brightness, torch.tensor([0.0, 0.5, 0.25]))
    assert torch.equal(images, before)
    keep = torch.tensor([0, 2, 3, 5, 6, 8])
    assert torch.equal(changed[keep], images[keep])
    torch.testing.assert_close(changed[rows], images[rows] * torch.tensor([0.0, 0.5, 0.25]).view(3, 1, 1, 1))
    assert change_rows(images, rows[:0], make_gray) is images


def test_change_rows_in_parts_gives_each_row_its_own_value() -> None:
    images = torch.ones(200, 3, 64, 64)  # more than one part
    factors = torch.linspace(0, 1, 100)
    changed = change_rows(images, torch.arange(0, 200, 2), adjust_brightness, factors)
    torch.testing.assert_close(changed[::2, 0, 0, 0], factors)
    assert (changed[1::2] == 1).all()


def test_rows_of_each_kind() -> None:
    groups = rows_of_each(torch.tensor([2, 1, 0, 2, 1, 0, 2]), 4)
    assert [rows.tolist() for rows in groups] == [[2, 5], [1, 4], [0, 3, 6], []]


def test_chosen_rows_follow_their_probability() -> None:
    rng = torch.Generator().manual_seed(0)
    assert len(rows_where(draw_bernoulli(10000, rng, 0.3))) == pytest.approx(3000, abs=4 * math.sqrt(10000 * 0.3 * 0.7))
    assert rows_where(draw_bernoulli(50, rng, 0.0)).tolist() == []
    assert rows_where(draw_bernoulli(50, rng, 1.0)).tolist() == list(range(50))


@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_others_are_uniform_over_all_but_oneself(batch_size: int) -> None:
    rng = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_others(batch_size, rng) for _ in range(3000)])  # (3000, batch_size)
    for own in range(batch_size):
        counts = torch.bincount(draws[:, own], minlength=batch_size)
        assert counts[own] == 0
        expected = 3000 / (batch_size - 1)
        assert all(abs(counts[j] - expected) < 5 * math.sqrt(expected) for j in range(batch_size) if j != own)


def test_the_other_of_a_lone_sample_is_itself() -> None:
    assert draw_others(1, torch.Generator()).tolist() == [0]
