"""Heads: the layers that each paper asks for."""

import pytest
import torch
from torch import nn

from ssl_sweep.models.heads import linear_head, mlp


def layers(head: nn.Sequential) -> list[str]:
    return [f"{layer}".partition("(")[0] for layer in head]


def test_moco_v2() -> None:
    head = mlp(32, 32, 8)
    assert layers(head) == ["Linear", "ReLU", "Linear"]
    assert sum(weights.numel() for weights in head.parameters()) == 32 * 32 + 32 + 32 * 8 + 8


def test_simclr_normalises_its_output() -> None:
    assert layers(mlp(32, 32, 8, batch_norm=True, last_norm="affine")) == [
        *("Linear", "BatchNorm1d", "ReLU"),
        *("Linear", "BatchNorm1d"),
    ]


def test_byol() -> None:
    head = mlp(32, 4096, 256, batch_norm=True)
    assert layers(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [4096, 256]
    assert [layer.bias is None for layer in head if isinstance(layer, nn.Linear)] == [True, False]


def test_simsiam_leaves_the_last_scale_out() -> None:
    head = mlp(32, 16, 16, layers=3, batch_norm=True, last_norm="plain")
    assert layers(head) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    output = head(torch.randn(64, 32))
    assert head[-1].weight is None
    torch.testing.assert_close(output.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.std(dim=0, correction=0), torch.ones(16), atol=1e-3, rtol=0)


def test_one_layer_is_linear() -> None:
    head = mlp(4, 99, 2, layers=1)
    x = torch.randn(3, 4)
    torch.testing.assert_close(head(x), x @ head[0].weight.T + head[0].bias)


def test_no_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="layers: a head needs at least 1 linear layer, got 0"):
        mlp(4, 4, 4, layers=0)


def test_the_classifier_starts_small() -> None:
    head = linear_head(1000, 10)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.bias.any()
