"""VICReg: the loss to the formula, and what each term sees."""

import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.vicreg import Method
from ssl_sweep.models.encoders import Encoder

SMALL = {"hidden_dim": 16, "dim": 6}


def draw(method: Method, images: Images) -> dict[str, Tensor]:
    return method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(2))


def variance_and_covariance(z: Tensor) -> tuple[float, float]:
    """Equations 1 to 4 for one view (N, D), element by element: v with gamma 1 and epsilon 1e-4, and c."""
    columns = z.T.tolist()
    count, dim = len(columns[0]), len(columns)
    centered = [[value - sum(column) / count for value in column] for column in columns]
    hinge = energy = 0.0
    for i in range(dim):
        for j in range(dim):
            entry = sum(a * b for a, b in zip(centered[i], centered[j], strict=True)) / (count - 1)
            if i == j:
                hinge += max(0.0, 1 - (entry + 1e-4) ** 0.5) / dim
            else:
                energy += entry**2 / dim
    return hinge, energy


@torch.no_grad()
def test_the_loss_is_the_papers(encoder: Encoder, images: Images) -> None:
    """Bardes et al. 2022, equations 1 to 6, s and v averaged as in the authors' code (see the method)."""
    method = Method(encoder, invariance=20.0, variance=15.0, covariance=3.0, **SMALL).double()
    batch = {name: view.double() for name, view in draw(method, images).items()}
    first, second = (method.projector(method.encoder(batch[name])) for name in ("first", "second"))
    rows = zip(first.tolist(), second.tolist(), strict=True)
    invariance = sum((a - b) ** 2 for x, y in rows for a, b in zip(x, y, strict=True)) / (8 * 6)
    (v1, c1), (v2, c2) = variance_and_covariance(first), variance_and_covariance(second)
    loss, scalars = method.loss(batch)
    assert abs(loss - (20 * invariance + 15 * (v1 + v2) / 2 + 3 * (c1 + c2))) < 1e-10
    assert abs(scalars["invariance"] - invariance) < 1e-10
    assert abs(scalars["variance"] - (v1 + v2) / 2) < 1e-10
    assert abs(scalars["covariance"] - (c1 + c2)) < 1e-10
    assert set(scalars) == {"invariance", "variance", "covariance", "feature_std"}


def test_collapse_costs_the_variance_term_alone(encoder: Encoder) -> None:
    method = Method(encoder, **SMALL).double()
    method.encoder, method.projector = nn.Identity(), nn.Identity()
    z = torch.ones(8, 6, dtype=torch.float64, requires_grad=True)
    loss, scalars = method.loss({"first": z, "second": z})
    assert abs(loss - 25 * (1 - 0.01)) < 1e-12  # the root of epsilon is 0.01
    assert (scalars["invariance"], scalars["covariance"], scalars["feature_std"]) == (0, 0, 0)
    loss.backward()
    assert z.grad.isfinite().all()  # epsilon keeps the root's slope finite


def test_the_gradient_comes_through_both_views(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, **SMALL)
    batch = {name: view.requires_grad_() for name, view in draw(method, images).items()}
    method.loss(batch)[0].backward()
    assert all(batch[name].grad.abs().sum() > 0 for name in ("first", "second"))
