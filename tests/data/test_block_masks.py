"""Masks of neighbouring patches: their shares, their shapes, and that half of the images have none."""

import pytest
import torch
from torch import Generator

from ssl_sweep.data.mask import draw_blocks


@pytest.mark.parametrize("side", [2, 4, 14])
def test_half_of_the_images_have_masks_of_about_the_drawn_shares(side: int) -> None:
    masks = draw_blocks(4000, Generator().manual_seed(0), side, 0.1, 0.5)
    shares = masks.double().mean(dim=1)
    masked = shares[shares > 0]
    assert len(masked) / 4000 == pytest.approx(0.5, abs=0.03)
    assert masked.max() <= 0.5 + 1e-9
    assert masked.min() >= 1 / side**2
    if side == 14:  # uniform in [0.1, 0.5], and blocks fill nearly all of it
        assert masked.mean() == pytest.approx(0.3, abs=0.02)
        assert masked.quantile(0.1) == pytest.approx(0.14, abs=0.02)


def test_masks_are_blocks() -> None:
    """Most neighbours of a masked patch are masked too: 69 % here, of independent patches it were the share, 40 %."""
    masks = draw_blocks(500, Generator().manual_seed(0), 14, 0.4, 0.4).view(-1, 14, 14)
    masks = masks[masks.any(dim=2).any(dim=1)]
    pairs = masks[:, :, 1:] & masks[:, :, :-1]
    assert pairs.sum() / masks[:, :, :-1].sum() > 0.65


def test_the_generator_decides() -> None:
    first, again, other = (draw_blocks(8, Generator().manual_seed(seed), 6, 0.1, 0.5) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
