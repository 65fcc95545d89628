"""SimCLR: the loss to the formula, and what its head is made of."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.simclr import Method
from ssl_sweep.models.encoders import Encoder


def draw(method: Method, images: Images) -> dict[str, Tensor]:
    return method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_the_papers(encoder: Encoder, images: Images, temperature: float) -> None:
    """Chen et al. 2020, equation 1 and algorithm 1: ℓ(2k−1, 2k) + ℓ(2k, 2k−1) over 2N."""
    method = Method(encoder, temperature=temperature, dim=8).double()
    batch = {name: view.double() for name, view in draw(method, images).items()}
    z = [row for view in ("first", "second") for row in method.projector(method.encoder(batch[view]))]

    def similarity(i: int, k: int) -> float:
        return float(z[i] @ z[k] / (z[i] @ z[i]).sqrt() / (z[k] @ z[k]).sqrt())

    expected = 0.0
    for i in range(16):
        total = sum(math.exp(similarity(i, k) / temperature) for k in range(16) if k != i)
        expected -= math.log(math.exp(similarity(i, (i + 8) % 16) / temperature) / total) / 16
    loss, scalars = method.loss(batch)
    assert abs(loss - expected) < 1e-10
    assert scalars["positive_similarity"] == pytest.approx(sum(similarity(i, (i + 8) % 16) for i in range(16)) / 16)
    assert set(scalars) == {"positive_similarity", "negative_similarity", "feature_std"}


def test_the_head_is_normalised_and_of_the_width_asked(encoder: Encoder) -> None:
    def widths(**knobs: int) -> list[int]:
        layers = Method(encoder, dim=8, **knobs).projector
        assert isinstance(layers[-1], nn.BatchNorm1d)
        return [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]

    assert widths() == [64, 8]
    assert widths(hidden_dim=24, projection_layers=3) == [24, 24, 8]


def test_training_separates_the_images(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, temperature=0.2, dim=16)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    batch = draw(method, images)
    losses = []
    for _ in range(15):
        loss, scalars = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert scalars["positive_similarity"] > scalars["negative_similarity"] + 0.5
