"""Fine-tuning of transformers: each piece against its formula."""

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torchvision.ops import StochasticDepth

from ssl_sweep.models.depth import layer_numbers
from ssl_sweep.models.drop_path import set_drop_path
from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder
from ssl_sweep.training.classifier import Classifier
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.tuning import Tuning, groups_of


@pytest.fixture
def vit() -> Encoder:
    torch.manual_seed(0)
    return ENCODERS["vit_tiny"](16, patch_size=4)


def test_each_layer_has_its_share_of_the_rate(vit: Encoder) -> None:
    """BEiT's layers: embedding 0, blocks 1 to 12, final norm and head 13."""
    classifier = Classifier(vit, 192, 10)
    recipe = Recipe(optimizer="adamw", lr=0.002, weight_decay=0.05, decay_norm_and_bias=False, decay_tokens=False)
    make = groups_of(classifier, vit, recipe, Tuning(layer_decay=0.5))
    assert make is not None
    names = {parameter: name for name, parameter in classifier.named_parameters()}
    found = {names[each]: (group["peak_lr"], group["weight_decay"]) for group in make() for each in group["params"]}
    assert found.keys() == set(names.values())
    block = "body.net.encoder.layers.encoder_layer_"
    assert found["body.net.class_token"] == (0.002 * 0.5**13, 0.0)
    assert found["body.net.encoder.pos_embedding"] == (0.002 * 0.5**13, 0.0)
    assert found["body.net.conv_proj.weight"] == (0.002 * 0.5**13, 0.05)
    assert found[f"{block}0.mlp.0.weight"] == (0.002 * 0.5**12, 0.05)
    assert found[f"{block}11.ln_1.weight"] == (0.002 * 0.5, 0.0)
    assert found["body.net.encoder.ln.weight"] == (0.002, 0.0)
    assert found["head.weight"] == (0.002, 0.05)
    assert groups_of(classifier, vit, recipe, Tuning()) is None


@pytest.mark.parametrize(
    ("name", "layers", "first", "last"),
    [
        ("resnet18", 8, "net.conv1.weight", "net.layer4.1.conv2.weight"),
        ("timm/vit_tiny_patch16_224", 12, "net.pos_embed", "net.blocks.11.mlp.fc2.weight"),
        ("torchvision/vit_b_32", 12, "net.conv_proj.weight", "net.encoder.layers.encoder_layer_11.mlp.3.weight"),
    ],
)
def test_layers_of_other_encoders(name: str, layers: int, first: str, last: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder({"name": name}, 64)
    numbers, head = layer_numbers(encoder)
    assert (head, numbers[first], numbers[last]) == (layers + 1, 0, layers)
    assert set(numbers.values()) >= set(range(layers + 1))


def test_paths_are_dropped_more_with_depth_and_in_training_alone(vit: Encoder) -> None:
    images, names = torch.rand(4, 3, 16, 16), list(vit.state_dict())
    with torch.no_grad():
        expected = vit.eval()(images)
        set_drop_path(vit, 0.5)
        assert torch.equal(vit.eval()(images), expected)
        assert not torch.allclose(vit.train()(images), expected)
    assert list(vit.state_dict()) == names
    rates = [module.p for module in vit.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.5 * index / 11 for index in range(12) for _ in range(2)])


def test_a_block_keeps_its_branches_mean(vit: Encoder) -> None:
    set_drop_path(vit, 0.5)
    block = vit.net.encoder.layers[-1].train()
    tokens = torch.randn(1, 2, 192)
    with torch.no_grad():
        torch.manual_seed(0)
        attention = block.dropout(torch.ones(4000, 2, 1)).flatten(1)
        assert set(attention.flatten().tolist()) == {0.0, 2.0}
        assert torch.equal(attention[:, 0], attention[:, 1])  # a whole branch of an image
        assert attention.mean().item() == pytest.approx(1, abs=0.05)
        assert block(tokens).shape == tokens.shape


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/convnext_tiny"])
def test_models_of_libraries_have_paths_to_drop(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder({"name": name}, 64)
        set_drop_path(encoder, 0.2)
    rates = [module.p for module in encoder.modules() if isinstance(module, StochasticDepth)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)


def test_a_resnet_has_no_paths_to_drop() -> None:
    with pytest.raises(ValueError, match=r"drop_path: ResNet18 has no residual branches .*; use a transformer"):
        set_drop_path(ENCODERS["resnet18"](16, width=8), 0.1)


def test_smoothed_labels() -> None:
    logits, labels = torch.randn(6, 4, generator=Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 1, 1])
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        shares = [0.2 / 4 + (0.8 if index == label else 0) for index in range(4)]
        expected += sum(share * (total - value) for share, value in zip(shares, row, strict=True)) / 6
    assert float(Tuning(label_smoothing=0.2).loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    one_hot = nn.functional.one_hot(labels, 4).float()
    assert float(Tuning(label_smoothing=0.2).loss(logits, one_hot)) == pytest.approx(expected, rel=1e-5)


def mixed(seed: int, **knobs: Any) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.rand(6, 3, 16, 16, generator=Generator().manual_seed(0))
    return images, *Tuning(**knobs).augmented(images, torch.arange(6), 6, Generator().manual_seed(seed))


def test_mixup_overlays_a_batch_and_its_labels_alike() -> None:
    for seed in range(5):
        images, found, shares = mixed(seed, mixup=0.8)
        share = float(shares[0, 0])
        torch.testing.assert_close(found, share * images + (1 - share) * images.roll(1, 0))
        torch.testing.assert_close(shares, share * torch.eye(6) + (1 - share) * torch.eye(6).roll(1, 0))


def test_cutmix_pastes_a_box_whose_area_is_the_labels_share() -> None:
    pasted = 0
    for seed in range(5):
        images, found, shares = mixed(seed, cutmix=1.0)
        changed = (found != images).any(dim=1)  # (6, 16, 16)
        assert torch.equal(found, torch.where(changed.unsqueeze(1), images.roll(1, 0), images))
        assert shares[0, 0].item() == pytest.approx(1 - changed[0].float().mean().item())
        pasted += int(changed.any())
    assert pasted > 2


def test_mixing_draws_from_the_passed_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (mixed(seed, mixup=0.8, cutmix=1.0) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    kinds = {bool((found == images).any(dim=1).any()) for images, found, _ in map(both, range(12))}
    assert kinds == {True, False}  # cutmix leaves pixels, mixup none


def both(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    return mixed(seed, mixup=0.8, cutmix=1.0)


def test_the_average_of_the_weights_is_measured() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    classifier = Classifier(body, 2, 4, Tuning(ema=0.9))
    weight, mean = body[0].weight.detach().clone(), torch.zeros(2)
    inputs = torch.randn(8, 3)
    for step in range(1, 4):
        with torch.no_grad():
            body[0].weight.add_(1.0)
        classifier.train()(inputs)
        classifier.after_step(0.0)
        momentum = (1 + step) / (10 + step)
        weight = momentum * weight + (1 - momentum) * body[0].weight.detach()
        mean = momentum * mean + (1 - momentum) * body[1].running_mean
    assert classifier.average is not None
    average = classifier.average.network[0]
    torch.testing.assert_close(average[0].weight, weight)
    torch.testing.assert_close(average[1].running_mean, mean)
    assert average[1].num_batches_tracked == 3
    classifier.eval()
    torch.testing.assert_close(classifier(inputs), classifier.average.network[1](average(inputs)))
    assert not torch.allclose(classifier(inputs), classifier.head(body(inputs)))
    classifier.average.steps.fill_(1e6)
    before = average[0].weight.clone()
    classifier.after_step(0.0)
    torch.testing.assert_close(average[0].weight, 0.9 * before + 0.1 * body[0].weight.detach())
