"""BYOL: the loss to the formula, and the target network's way to it."""

import math

import torch
from torch import Generator, Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.byol import Method
from ssl_sweep.models.encoders import Encoder

SMALL = {"hidden_dim": 16, "dim": 8}


def draw(method: Method, images: Images, seed: int = 2) -> dict[str, Tensor]:
    return method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(seed))


def another_target(method: Method) -> Method:
    """`method`, its target no longer equal to the online network."""
    with torch.no_grad():
        for parameter in method.target.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=Generator().manual_seed(parameter.numel())))
    return method


@torch.no_grad()
def test_the_loss_is_the_papers(encoder: Encoder, images: Images) -> None:
    """Grill et al. 2020, equation 2 both ways: the squared distance of the normalised prediction and projection."""
    method = another_target(Method(encoder, **SMALL).double())
    batch = {name: view.double() for name, view in draw(method, images).items()}
    expected, cosines = 0.0, []
    for online, target in (("first", "second"), ("second", "first")):
        predictions = method.predictor(method.projector(method.encoder(batch[online])))
        for p, z in zip(predictions, method.target(batch[target]), strict=True):
            p, z = p / (p @ p).sqrt(), z / (z @ z).sqrt()
            expected += float((p - z) @ (p - z)) / 8
            cosines.append(float(p @ z))
    loss, scalars = method.loss(batch)
    assert abs(loss - expected) < 1e-10
    assert abs(scalars["positive_similarity"] - sum(cosines) / 16) < 1e-10
    assert set(scalars) == {"positive_similarity", "feature_std"}


def test_the_target_follows_by_a_momentum_that_rises_to_one(encoder: Encoder, images: Images) -> None:
    """Section 3.2: τ = 1 − (1 − τ_base)·(cos(πk/K) + 1)/2 at step k of K."""
    method = Method(encoder, momentum=0.6, **SMALL)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)

    def online() -> list[Tensor]:
        return [p.detach().double() for net in (method.encoder, method.projector) for p in net.parameters()]

    expected = online()
    for step in range(4):
        loss, _ = method.loss(draw(method, images, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step / 3)
        m = 1 - 0.4 * (math.cos(math.pi * step / 3) + 1) / 2
        expected = [m * mine + (1 - m) * theirs for mine, theirs in zip(expected, online(), strict=True)]
        found = [parameter.double() for parameter in method.target.parameters()]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert m == 1


def test_no_gradient_reaches_the_target(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, **SMALL)
    method.loss(draw(method, images))[0].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.target.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.predictor[-1].parameters())
