"""Target networks: the average's formula, and what it leaves alone."""

import copy
import math

import pytest
import torch
from torch import nn

from ssl_sweep.models.momentum import cosine_momentum, ema_copy, ema_update


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def test_a_copy_shares_nothing_and_asks_for_no_gradient() -> None:
    online = net()
    target = ema_copy(online)
    torch.testing.assert_close(target.state_dict(), online.state_dict())
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())
    with torch.no_grad():
        online[0].weight.add_(1)
    assert not torch.equal(target[0].weight, online[0].weight)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_the_average_is_the_papers(momentum: float) -> None:
    online, target = net().double(), ema_copy(net().double())
    before = [parameter.clone() for parameter in target.parameters()]
    ema_update(target, online, momentum)
    for old, new, found in zip(before, online.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(found, momentum * old + (1 - momentum) * new, atol=1e-12, rtol=0)


def test_the_target_keeps_its_own_batch_statistics() -> None:
    online = net()
    target = ema_copy(online)
    online(torch.randn(8, 4) + 3)
    before = copy.deepcopy(dict(target.named_buffers()))
    ema_update(target, online, 0.5)
    torch.testing.assert_close(dict(target.named_buffers()), before)


def test_an_average_of_half_precision_weights_moves() -> None:
    online = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(online.weight)
    target = ema_copy(online)
    nn.init.constant_(online.weight, 2.0)
    ema_update(target, online, 0.999)
    assert target.weight.item() == pytest.approx(1.001)


def test_networks_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ema_update(nn.Linear(2, 2, bias=False), nn.Linear(2, 2), 0.9)


def test_byols_schedule_ends_at_one() -> None:
    assert cosine_momentum(0.99, 0.0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 1.0) == pytest.approx(1.0)
    assert cosine_momentum(0.9, 0.25) == pytest.approx(1 - 0.1 * (1 + math.sqrt(0.5)) / 2)
