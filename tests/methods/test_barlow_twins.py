"""Barlow Twins: the loss to the formula, and what it is zero for."""

import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.barlow_twins import EPS, Method
from ssl_sweep.models.encoders import Encoder

SMALL = {"hidden_dim": 16, "dim": 6}


def draw(method: Method, images: Images) -> dict[str, Tensor]:
    return method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(2))


def standardized(z: Tensor) -> list[list[float]]:
    """Each column of (N, D) less its mean, over its standard deviation over N, by hand."""
    columns = []
    for column in z.T.tolist():
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        columns.append([(value - mean) / (variance + EPS) ** 0.5 for value in column])
    return columns


@pytest.mark.parametrize("redundancy", [0.0051, 0.5])
@torch.no_grad()
def test_the_loss_is_the_papers(encoder: Encoder, images: Images, redundancy: float) -> None:
    """Zbontar et al. 2021, equations 1 and 2, element by element."""
    method = Method(encoder, redundancy=redundancy, **SMALL).double()
    batch = {name: view.double() for name, view in draw(method, images).items()}
    first, second = (standardized(method.projector(method.encoder(batch[name]))) for name in ("first", "second"))
    invariance = off = 0.0
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            correlation = sum(x * y for x, y in zip(a, b, strict=True)) / 8
            if i == j:
                invariance += (1 - correlation) ** 2
            else:
                off += correlation**2
    loss, scalars = method.loss(batch)
    assert abs(loss - (invariance + redundancy * off)) < 1e-10
    assert abs(scalars["invariance"] - invariance) < 1e-10
    assert abs(scalars["redundancy"] - off) < 1e-10
    assert set(scalars) == {"invariance", "redundancy", "feature_std"}


def test_equal_views_with_independent_dimensions_cost_nothing(encoder: Encoder) -> None:
    method = Method(encoder, **SMALL).double()
    method.encoder, method.projector = nn.Identity(), nn.Identity()
    orthogonal = torch.linalg.qr(torch.randn(32, 7, dtype=torch.float64, generator=Generator().manual_seed(0)))[0]
    orthogonal = orthogonal - orthogonal.mean(dim=0)
    z = torch.linalg.qr(orthogonal)[0][:, :6] * 100  # centred and uncorrelated
    loss, _ = method.loss({"first": z, "second": 3 * z + 1})
    assert loss < 1e-9
    doubled = torch.cat([z[:, :3], z[:, :3]], dim=1)  # every dimension twice: six correlations of 1
    assert abs(method.loss({"first": doubled, "second": doubled})[0] - 6 * 0.0051) < 1e-6


def test_the_gradient_comes_through_both_views(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, **SMALL)
    batch = {name: view.requires_grad_() for name, view in draw(method, images).items()}
    method.loss(batch)[0].backward()
    assert all(batch[name].grad.abs().sum() > 0 for name in ("first", "second"))
