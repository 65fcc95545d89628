"""SimSiam: the loss and its stopped gradient to the formula, and the learning rate that its predictor keeps."""

import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.simsiam import Method
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.optimizers import Recipe, build, set_rates

SMALL = {"dim": 16, "predictor_dim": 4}


def draw(method: Method, images: Images) -> dict[str, Tensor]:
    views = method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(2))
    return {name: view.double() for name, view in views.items()}


def gradients(method: Method, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(method.parameters())))


@pytest.mark.parametrize("layers", [2, 3])
def test_loss_and_gradient_are_the_papers(encoder: Encoder, images: Images, layers: int) -> None:
    """Chen & He 2021, equations 1 and 4: D(p₁, stopgrad z₂)/2 + D(p₂, stopgrad z₁)/2, D the negative cosine."""
    method = Method(encoder, projection_layers=layers, **SMALL).double()
    batch = draw(method, images)
    z = {name: method.projector(method.encoder(view)) for name, view in batch.items()}
    expected = torch.zeros((), dtype=torch.float64)
    for own, other in (("first", "second"), ("second", "first")):
        for p, target in zip(method.predictor(z[own]), z[other].detach(), strict=True):
            expected = expected - (p @ target) / (p @ p).sqrt() / (target @ target).sqrt() / 2 / 8
    loss, scalars = method.loss(batch)
    assert abs(loss - expected) < 1e-10
    assert abs(scalars["positive_similarity"] + expected) < 1e-10
    for found, wanted in zip(gradients(method, loss), gradients(method, expected), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


def test_the_heads_are_the_papers(encoder: Encoder) -> None:
    method = Method(encoder, **SMALL)
    widths = [layer.out_features for layer in method.projector if isinstance(layer, nn.Linear)]
    assert widths == [16, 16, 16]
    assert isinstance(method.projector[-1], nn.BatchNorm1d)
    assert not method.projector[-1].affine
    assert [layer.out_features for layer in method.predictor if isinstance(layer, nn.Linear)] == [4, 16]


@pytest.mark.parametrize("constant", [True, False])
def test_the_predictor_keeps_its_learning_rate(encoder: Encoder, constant: bool) -> None:
    method = Method(encoder, constant_predictor_lr=constant, **SMALL)
    recipe = Recipe(epochs=10, lr=0.5)
    optimizer = build(method, recipe)
    set_rates(optimizer, recipe, progress=0.5)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert {rates[id(weight)] for weight in method.predictor.parameters()} == {0.5 if constant else 0.25}
    assert {rates[id(weight)] for weight in method.encoder.parameters()} == {0.25}
