"""Batch normalisation over the global batch: on one rank it is torch's own (two ranks: test_distributed_fit)."""

import pytest
import torch
from torch import nn

from ssl_sweep.models.batchnorm import SplitBatchNorm
from ssl_sweep.models.global_norm import GlobalBatchNorm, global_batchnorm

CPU = torch.device("cpu")


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 5)])
def test_on_one_rank_it_is_plain_batch_normalisation(shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    plain = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(4, affine=affine).double()
    if affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
    ours = GlobalBatchNorm(plain)
    ours.running_mean, ours.running_var = plain.running_mean.clone(), plain.running_var.clone()
    ours.num_batches_tracked = plain.num_batches_tracked.clone()
    for _ in range(2):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        weights = torch.randn(shape, dtype=torch.float64)
        (plain(x) * weights).sum().backward()
        (ours(y) * weights).sum().backward()
        torch.testing.assert_close(plain(x), ours(y))
        torch.testing.assert_close(x.grad, y.grad)
    assert plain.state_dict().keys() == ours.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


def test_groups_are_left_as_they_are() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Sequential(SplitBatchNorm(nn.BatchNorm1d(4), 2)))
    weight = net[0].weight
    converted = global_batchnorm(net, CPU)
    assert isinstance(converted[0], GlobalBatchNorm)
    assert converted[0].weight is weight
    assert type(converted[1][0]) is SplitBatchNorm
    assert isinstance(global_batchnorm(nn.BatchNorm1d(4), torch.device("cuda")), nn.SyncBatchNorm)


def test_under_autocast_half_precision_comes_out_as_it_went_in() -> None:
    x = torch.randn(8, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert GlobalBatchNorm(nn.BatchNorm1d(4))(x).dtype == torch.bfloat16
