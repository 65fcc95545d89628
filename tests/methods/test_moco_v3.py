"""MoCo-v3: the loss to the formula, the key network's way, and what a transformer leaves as it begins."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.moco_v3 import Method
from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder

SMALL = {"hidden_dim": 16, "dim": 8}


def draw(method: Method, images: Images, seed: int = 2) -> dict[str, Tensor]:
    return method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(seed))


def other_keys(method: Method) -> Method:
    """`method`, its key network no longer equal to the queries'."""
    with torch.no_grad():
        for parameter in method.keys.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=Generator().manual_seed(parameter.numel())))
    return method


def length_one(x: Tensor) -> np.ndarray:
    rows = x.numpy()
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_loss_is_the_papers(encoder: Encoder, images: Images, temperature: float) -> None:
    """Chen, Xie & He 2021, algorithm 1: ctr(q1, k2) + ctr(q2, k1), each 2τ times equation 1."""
    method = other_keys(Method(encoder, temperature=temperature, **SMALL).double())
    batch = {name: view.double() for name, view in draw(method, images).items()}
    expected, positives, negatives = 0.0, [], []
    for query_view, key_view in (("first", "second"), ("second", "first")):
        q = length_one(method.predictor(method.projector(method.encoder(batch[query_view]))))
        k = length_one(method.keys[1](method.keys[0](batch[key_view])))
        for i in range(8):
            products = [float(np.dot(q[i], k[j])) for j in range(8)]
            total = sum(math.exp(product / temperature) for product in products)
            expected -= 2 * temperature * math.log(math.exp(products[i] / temperature) / total) / 8
            positives.append(products.pop(i))
            negatives += products
    loss, scalars = method.loss(batch)
    assert abs(loss - expected) < 1e-10
    assert float(scalars["positive_similarity"]) == pytest.approx(np.mean(positives))
    assert float(scalars["negative_similarity"]) == pytest.approx(np.mean(negatives))
    assert set(scalars) == {"positive_similarity", "negative_similarity", "feature_std"}


def test_heads_have_three_and_two_layers_and_a_plain_last_normalisation(encoder: Encoder) -> None:
    method = Method(encoder, **SMALL)
    for head, layers in ((method.projector, 3), (method.predictor, 2)):
        assert sum(isinstance(layer, nn.Linear) for layer in head) == layers
        norms = [layer for layer in head if isinstance(layer, nn.BatchNorm1d)]
        assert [norm.affine for norm in norms] == [True] * (layers - 1) + [False]
    assert method.state_dict().keys() == Method(encoder, **SMALL).state_dict().keys()
    assert not any("queue" in key for key in method.state_dict())


def test_the_key_network_follows_by_a_momentum_that_rises_to_one(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, momentum=0.6, **SMALL)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)

    def online() -> list[Tensor]:
        return [p.detach().double() for net in (method.encoder, method.projector) for p in net.parameters()]

    expected = online()
    for step in range(4):
        loss, _ = method.loss(draw(method, images, seed=step))
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is None for parameter in method.keys.parameters())
        optimizer.step()
        method.after_step(step / 3)
        m = 1 - 0.4 * (math.cos(math.pi * step / 3) + 1) / 2
        expected = [m * mine + (1 - m) * theirs for mine, theirs in zip(expected, online(), strict=True)]
        found = [parameter.double() for parameter in method.keys.parameters()]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert m == 1


def test_a_transformer_keeps_its_patch_projection_and_its_sines(images: Images) -> None:
    torch.manual_seed(0)
    method = Method(ENCODERS["vit_tiny"](16, patch_size=4), **SMALL)
    fixed = {"net.conv_proj.weight", "net.conv_proj.bias", "net.encoder.pos_embedding"}
    before = {name: parameter.detach().clone() for name, parameter in method.encoder.named_parameters()}
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1)
    method.loss(draw(method, images))[0].backward()
    optimizer.step()
    method.after_step(0.5)
    moved = {name for name, parameter in method.encoder.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == before.keys() - fixed
    assert all(torch.equal(method.keys[0].state_dict()[name], before[name]) for name in fixed)
    positions = before["net.encoder.pos_embedding"][0]  # (1 + 16, 192)
    assert not positions[0].any()
    for row, column, k in ((0, 0, 5), (3, 1, 0), (2, 3, 47)):
        angles = [place / 10_000 ** (k / 48) for place in (column, row)]
        expected = [f(angle) for angle in angles for f in (math.sin, math.cos)]
        found = positions[1 + 4 * row + column, k::48]
        torch.testing.assert_close(found, torch.tensor(expected))


def test_the_encoder_that_is_named_is_evaluated(encoder: Encoder) -> None:
    for of, net in (("student", 0), ("teacher", 1)):
        method = Method(encoder, encoder_of=of, **SMALL)
        nets = [(method.encoder, method.projector), (method.keys[0], method.keys[1])]
        assert all(found is expected for found, expected in zip(method.evaluated(), nets[net], strict=True))


def test_both_are_trained_where_the_knobs_say_so() -> None:
    method = Method(ENCODERS["vit_tiny"](16, patch_size=4), freeze_patches=False, positions="learned", **SMALL)
    assert all(parameter.requires_grad for parameter in method.encoder.parameters())


def test_positions_of_an_earlier_training_stay() -> None:
    encoder = ENCODERS["vit_tiny"](16, patch_size=4)
    encoder.begun = True  # as `load_weights` leaves it
    learned = encoder.net.encoder.pos_embedding.detach().clone()
    method = Method(encoder, **SMALL)
    assert torch.equal(method.encoder.net.encoder.pos_embedding, learned)
    assert not method.encoder.net.encoder.pos_embedding.requires_grad


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/vit_b_16"])
def test_patch_projections_of_libraries_are_frozen(name: str) -> None:
    with torch.device("meta"):
        method = Method(build_encoder({"name": name}, 32), **SMALL)
    frozen = [name for name, parameter in method.encoder.named_parameters() if not parameter.requires_grad]
    layer = "patch_embed.proj" if name.startswith("timm") else "conv_proj"
    assert frozen == [f"net.{layer}.weight", f"net.{layer}.bias"]
