"""Optimisers, groups and schedules against their formulas."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.training.optimizers import Recipe, build, parameter_groups, set_rates


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_cosine_with_warm_up() -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2, lr=0.4)
    optimizer = build(nn.Linear(2, 2), recipe)
    rates = []
    for progress in (0, 0.1, 0.2, 0.6, 1.0):
        set_rates(optimizer, recipe, progress)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 10}, "epochs 50 and steps 10 are both given; set one of them to null"),
        ({"epochs": None}, "epochs and steps are both null"),
        ({"epoch_steps": 5}, "epoch_steps 5 has no effect without steps"),
    ],
)
def test_exactly_one_length_is_given(settings: dict[str, int | None], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**settings)  # type: ignore[arg-type]


def test_warm_up_counts_epochs_of_steps() -> None:
    assert Recipe(epochs=None, steps=1000, epoch_steps=50, warmup_epochs=2).warmup == pytest.approx(0.1)
    assert Recipe(epochs=None, steps=1000, warmup_epochs=2).warmup == pytest.approx(0.1)  # of a twentieth each


def test_step_schedule_falls_at_each_milestone() -> None:
    recipe = Recipe(epochs=100, schedule="step", lr=30)
    assert [recipe.lr_factor(progress, 0) for progress in (0.59, 0.6, 0.79, 0.8)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 2), ("sqrt", math.sqrt(512))])
def test_lr_scaling(scaling: str, factor: float) -> None:
    assert Recipe(lr=0.1, batch_size=512, lr_scaling=scaling).peak_lr == pytest.approx(0.1 * factor)


def test_norm_and_bias_can_be_left_out_of_decay(net: nn.Module) -> None:
    groups = parameter_groups(net, Recipe(decay_norm_and_bias=False, weight_decay=0.1))
    by_decay = {group["weight_decay"]: [tuple(p.shape) for p in group["params"]] for group in groups}
    assert by_decay == {0.1: [(3, 2)], 0.0: [(3,), (3,), (3,)]}
    assert [group["weight_decay"] for group in parameter_groups(net, Recipe(weight_decay=0.1))] == [0.1]


def test_lars_leaves_norm_and_bias_out_unless_told(net: nn.Module) -> None:
    def decays(**knobs: Any) -> list[float]:
        return [group["weight_decay"] for group in parameter_groups(net, Recipe(weight_decay=0.1, **knobs))]

    assert decays(optimizer="lars") == [0.1, 0.0]
    assert decays(optimizer="lars", decay_norm_and_bias=True) == [0.1]
    assert decays(optimizer="sgd") == decays(optimizer="adamw") == [0.1]


def test_tokens_and_positions_can_be_left_out_of_decay() -> None:
    encoder = ENCODERS["vit_tiny"](16, patch_size=8)
    named = {parameter: name for name, parameter in encoder.named_parameters()}

    def undecayed(**knobs: Any) -> set[str]:
        groups = parameter_groups(encoder, Recipe(weight_decay=0.1, **knobs))
        return {named[each] for group in groups if not group["weight_decay"] for each in group["params"]}

    tokens = {"net.class_token", "net.encoder.pos_embedding"}
    assert undecayed(decay_tokens=False) == tokens
    assert undecayed(decay_norm_and_bias=False, decay_tokens=False) >= {*tokens, "net.encoder.ln.weight"}
    assert not undecayed(decay_norm_and_bias=False) & tokens


def test_bias_and_norm_can_have_a_rate_of_their_own(net: nn.Module) -> None:
    """Barlow Twins (Zbontar et al. 2021, section 2.2): 0.2 for weights, 0.0048 for biases and norms, by batch/256."""
    recipe = Recipe(optimizer="lars", batch_size=2048, lr=0.2, bias_lr=0.0048, lr_scaling="linear", final_lr=0.001)
    optimizer = build(net, recipe)
    for progress, factor in ((0.0, 1.0), (0.5, 0.5005), (1.0, 0.001)):
        set_rates(optimizer, recipe, progress)
        rates = {tuple(group["params"][0].shape): group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx({(3, 2): 1.6 * factor, (3,): 0.0384 * factor})


def test_the_weight_decay_approaches_its_end_by_a_cosine(net: nn.Module) -> None:
    """DINO (Caron et al. 2021, section 3.2): from 0.04 to 0.4; what is not decayed stays so."""
    recipe = Recipe(optimizer="adamw", weight_decay=0.04, final_weight_decay=0.4, decay_norm_and_bias=False)
    optimizer = build(net, recipe)
    for progress, expected in ((0.0, 0.04), (0.5, 0.22), (0.75, 0.4 - 0.36 * (1 - math.sqrt(0.5)) / 2), (1.0, 0.4)):
        set_rates(optimizer, recipe, progress)
        assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([expected, 0.0])


def test_adamws_beta2_and_nesterovs_momentum_reach_the_optimiser() -> None:
    adamw = build(nn.Linear(2, 2), Recipe(optimizer="adamw", momentum=0.8, beta2=0.95))
    assert adamw.param_groups[0]["betas"] == (0.8, 0.95)
    line = nn.Linear(1, 1, bias=False)
    sgd = build(line, Recipe(nesterov=True, momentum=0.5, lr=1.0, weight_decay=0.0))
    with torch.no_grad():
        line.weight.fill_(8.0)
    for expected in (8 - 1.5, 6.5 - (1 + 0.5 * 1.5)):  # v <- 0.5 v + g, w <- w - (g + 0.5 v), g = 1
        sgd.zero_grad()
        line(torch.ones(1, 1)).sum().backward()
        sgd.step()
        assert line.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("knobs", [{"optimizer": "adamw"}, {"momentum": 0.0}])
def test_nesterov_needs_a_momentum_of_sgd(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nesterov: .*; set"):
        Recipe(nesterov=True, **knobs)


def test_a_module_can_keep_a_constant_rate() -> None:
    class Net(nn.Module):
        constant_lr = ("predictor",)

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.predictor = nn.Linear(2, 2), nn.Linear(2, 2)

    recipe = Recipe(lr=0.1)
    optimizer = build(Net(), recipe)
    set_rates(optimizer, recipe, 0.5)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.05, 0.1])


def test_lars_scales_each_layer_by_its_trust_ratio() -> None:
    net = nn.Linear(3, 2).double()
    recipe = Recipe(optimizer="lars", lr=0.5, weight_decay=0.01, momentum=0.9, decay_norm_and_bias=True)
    optimizer = build(net, recipe)
    weight, bias = net.weight.detach().clone(), net.bias.detach().clone()
    velocity = torch.zeros_like(weight)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(1, 3, dtype=torch.float64)).pow(2).sum().backward()
        gradient, bias_gradient = net.weight.grad.clone(), net.bias.grad.clone()
        optimizer.step()
        # You et al. 2017: local rate, then momentum
        local = 0.001 * weight.norm() / (gradient.norm() + 0.01 * weight.norm())
        velocity = 0.9 * velocity + local * (gradient + 0.01 * weight)
        weight = weight - 0.5 * velocity
        torch.testing.assert_close(net.weight.detach(), weight, rtol=1e-10, atol=1e-12)
        if bias is not None:
            torch.testing.assert_close(net.bias.detach(), bias - 0.5 * (bias_gradient + 0.01 * bias))
            bias = None  # its momentum is SGD's own
