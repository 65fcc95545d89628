"""The momentum encoder and its queue: what is encoded, when it is enqueued, and with which batch statistics."""

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.models.batchnorm import SplitBatchNorm
from ssl_sweep.models.keys import MomentumKeys, draw_orders, group_batchnorm


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def batch(count: int) -> Tensor:
    return torch.randn(count, 4, generator=rng())


def test_keys_have_length_one_and_no_gradient() -> None:
    keys = MomentumKeys(nn.Linear(4, 2), 2, 8)
    found = keys.encode(batch(4), None)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert not found.requires_grad


def test_an_order_changes_the_neighbours_and_not_the_place() -> None:
    order = torch.tensor([2, 0, 3, 1])
    keys = MomentumKeys(nn.Linear(4, 2), 2, 8)
    torch.testing.assert_close(keys.encode(batch(4), order), keys.encode(batch(4), None))
    grouped = MomentumKeys(SplitBatchNorm(nn.BatchNorm1d(4), 2), 4, 8)
    expected = torch.cat([nn.BatchNorm1d(4)(batch(4)[rows]) for rows in ([2, 0], [3, 1])])[[1, 3, 0, 2]]
    torch.testing.assert_close(grouped.encode(batch(4), order), nn.functional.normalize(expected, dim=1).detach())


def test_held_keys_enter_the_queue_at_the_end_of_the_step() -> None:
    online = nn.Linear(4, 2)
    keys = MomentumKeys(online, 2, 8)
    before = keys.queue.keys.clone()
    fresh = keys.encode(batch(4), None)
    keys.hold(fresh)
    assert torch.equal(keys.queue.keys, before)
    keys.step(online, 0.9)
    assert torch.equal(keys.queue.keys, torch.cat([fresh, before[4:]]))
    with pytest.raises(AssertionError, match="hold the keys"):
        keys.step(online, 0.9)


@pytest.mark.parametrize(("size", "multiple"), [(11, 12), (9, 8), (2, 4)])
def test_a_queue_that_does_not_divide_is_refused(size: int, multiple: int) -> None:
    online = nn.Linear(4, 2)
    keys = MomentumKeys(online, 2, size)
    keys.hold(keys.encode(batch(4), None))
    with pytest.raises(
        ValueError, match=f"method.queue_size: {size} is not a multiple of the 4 .* take {multiple}, or"
    ):
        keys.step(online, 0.9)


def test_orders_are_permutations_for_shuffled_keys_only() -> None:
    orders = draw_orders(("first", "second"), "shuffled", 9, rng())
    assert set(orders) == {"first_order", "second_order"}
    assert all(sorted(order.tolist()) == list(range(9)) for order in orders.values())
    assert not torch.equal(orders["first_order"], orders["second_order"])
    assert draw_orders(("first",), "split", 9, rng()) == draw_orders(("first",), "plain", 9, rng()) == {}


@pytest.mark.parametrize(("kind", "grouped"), [("shuffled", True), ("split", True), ("plain", False)])
def test_statistics_by_group_are_put_in_place(kind: str, grouped: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    group_batchnorm(net, kind, 4)
    assert isinstance(net[1], SplitBatchNorm) == grouped
    if grouped:
        assert net[1].num_splits == 4
    torch.testing.assert_close(dict(net.state_dict()), state)
