"""Optimisers, groups and schedules against their formulas."""

import math

import pytest
import torch
from torch import nn

from ssl_sweep.training.optimizers import Recipe, build, parameter_groups, set_lr


def test_cosine_with_warm_up() -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2, lr=0.4)
    optimizer = build(nn.Linear(2, 2), recipe)
    rates = []
    for progress in (0, 0.1, 0.2, 0.6, 1.0):
        set_lr(optimizer, recipe, progress)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0], abs=1e-12)


def test_step_schedule_falls_at_each_milestone() -> None:
    recipe = Recipe(epochs=100, schedule="step", lr=30)
    assert [recipe.lr_factor(progress, 0) for progress in (0.59, 0.6, 0.79, 0.8)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 2), ("sqrt", math.sqrt(512))])
def test_lr_scaling(scaling: str, factor: float) -> None:
    assert Recipe(lr=0.1, batch_size=512, lr_scaling=scaling).peak_lr == pytest.approx(0.1 * factor)


def test_norm_and_bias_can_be_left_out_of_decay() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    groups = parameter_groups(net, Recipe(decay_norm_and_bias=False, weight_decay=0.1))
    by_decay = {group["weight_decay"]: [tuple(p.shape) for p in group["params"]] for group in groups}
    assert by_decay == {0.1: [(3, 2)], 0.0: [(3,), (3,), (3,)]}
    assert [group["weight_decay"] for group in parameter_groups(net, Recipe(weight_decay=0.1))] == [0.1]


def test_a_module_can_keep_a_constant_rate() -> None:
    class Net(nn.Module):
        constant_lr = ("predictor",)

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.predictor = nn.Linear(2, 2), nn.Linear(2, 2)

    recipe = Recipe(lr=0.1)
    optimizer = build(Net(), recipe)
    set_lr(optimizer, recipe, 0.5)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.05, 0.1])


def test_lars_scales_each_layer_by_its_trust_ratio() -> None:
    net = nn.Linear(3, 2).double()
    recipe = Recipe(optimizer="lars", lr=0.5, weight_decay=0.01, momentum=0.9)
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
