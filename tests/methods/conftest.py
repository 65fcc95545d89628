"""What tests of single methods share: a few random images and a small encoder."""

import pytest
import torch
from torch import Generator

from ssl_sweep.data.images import Images
from ssl_sweep.models.encoders import ENCODERS, Encoder


@pytest.fixture
def images() -> Images:
    """Eight images of 16 pixels, every pixel random."""
    pixels = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8, generator=Generator().manual_seed(1))
    return Images(pixels, torch.full((8, 2), 16))


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return ENCODERS["resnet18"](16, width=8)
