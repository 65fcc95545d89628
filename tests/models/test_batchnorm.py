"""Split batch normalisation against one plain normalisation a group."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.models.batchnorm import SplitBatchNorm, shuffled, split_batchnorm
from ssl_sweep.models.encoders import ENCODERS


def batch(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [8, 12, 9, 7])
@pytest.mark.parametrize("shape", [(3, 5, 5), (3,)])
def test_each_group_is_normalised_as_if_alone(count: int, shape: tuple[int, ...]) -> None:
    norm = nn.BatchNorm2d(3) if len(shape) == 3 else nn.BatchNorm1d(3)
    nn.init.uniform_(norm.weight)
    groups = batch(count, *shape).tensor_split(3)
    alone = [copy.deepcopy(norm) for _ in groups]
    expected = torch.cat([one(group) for one, group in zip(alone, groups, strict=True)])
    split = split_batchnorm(norm, 3)
    torch.testing.assert_close(split(batch(count, *shape)), expected)
    torch.testing.assert_close(split.running_mean, torch.stack([one.running_mean for one in alone]).mean(dim=0))
    torch.testing.assert_close(split.running_var, torch.stack([one.running_var for one in alone]).mean(dim=0))
    assert int(split.num_batches_tracked) == 1


@pytest.mark.parametrize("count", [8, 10])  # 4 groups of 2; groups of 3, 3, 2 and 2
def test_outputs_and_gradients_are_those_of_tensor_split(count: int) -> None:
    split = SplitBatchNorm(nn.BatchNorm2d(3), 4)
    norm = nn.BatchNorm2d(3)
    ours, theirs = (batch(count, 3, 5, 5).requires_grad_() for _ in range(2))
    output = split(ours)
    expected = torch.cat([norm(group) for group in theirs.tensor_split(4)])
    target = torch.rand_like(expected)
    losses = [(y - target).square().mean() for y in (output, expected)]
    for loss in losses:
        loss.backward()
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(ours.grad, theirs.grad)
    assert torch.equal(split.weight.grad, norm.weight.grad)
    assert torch.equal(split.bias.grad, norm.bias.grad)


@pytest.mark.parametrize("count", [8, 10])
def test_the_backward_pass_slices_no_group(count: int) -> None:
    output = SplitBatchNorm(nn.BatchNorm1d(3), 4)(batch(count, 3).requires_grad_())
    names = [node.name() for node in nodes(output.grad_fn)]
    assert "SliceBackward0" not in names  # `tensor_split` makes one per group, each as large as the batch
    assert sum(name.startswith("NativeBatchNorm") for name in names) == 4


def nodes(node: torch.autograd.graph.Node) -> Iterator[torch.autograd.graph.Node]:
    """A node of the backward graph and all that it leads to; more than once where paths meet."""
    yield node
    for successor, _ in node.next_functions:
        if successor is not None:
            yield from nodes(successor)


def test_groups_have_two_images_or_more() -> None:
    split = SplitBatchNorm(nn.BatchNorm1d(2), 8)
    torch.testing.assert_close(split(batch(3, 2)), nn.BatchNorm1d(2)(batch(3, 2)))
    pairs = split(batch(4, 2))
    torch.testing.assert_close(pairs.view(2, 2, 2).mean(dim=1), torch.zeros(2, 2))


def test_in_evaluation_it_is_batch_normalisation() -> None:
    norm = nn.BatchNorm2d(3)
    norm(batch(8, 3, 4, 4))
    expected = norm.eval()(batch(8, 3, 4, 4))
    torch.testing.assert_close(split_batchnorm(norm, 4).eval()(batch(8, 3, 4, 4)), expected)


def test_an_encoder_keeps_its_state_its_keys_and_its_layout() -> None:
    encoder = ENCODERS["resnet18"](16, width=8)
    state = copy.deepcopy(encoder.state_dict())
    split = split_batchnorm(encoder, 2)
    assert split is encoder
    torch.testing.assert_close(split.state_dict(), state)
    assert sum(isinstance(module, SplitBatchNorm) for module in split.modules()) == 20
    assert not any(type(module) is nn.BatchNorm2d for module in split.modules())
    images = batch(4, 3, 16, 16).to(memory_format=torch.channels_last)
    maps = encoder.to(memory_format=torch.channels_last).feature_map(images)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    maps.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_a_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="has no running statistics; set track_running_stats=True"):
        split_batchnorm(nn.BatchNorm1d(3, track_running_stats=False), 2)


def test_shuffled_keys_come_back_in_order_from_other_groups() -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    x = batch(8, 4)
    torch.testing.assert_close(shuffled(lambda rows: 2 * rows, x, order), 2 * x)
    split = SplitBatchNorm(nn.BatchNorm1d(4), 4)
    assert not torch.allclose(shuffled(split, x, order), split(x))


def test_shuffled_keys_have_no_gradient() -> None:
    encode = nn.Linear(4, 2)
    assert not shuffled(encode, batch(4, 4), torch.arange(4)).requires_grad
