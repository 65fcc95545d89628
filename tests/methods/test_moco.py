"""MoCo: the loss to the formula, what the queue holds and when, and how the key encoder moves."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.moco import Method
from ssl_sweep.models.batchnorm import SplitBatchNorm
from ssl_sweep.models.encoders import Encoder

AUGMENT = Augment(16, brightness=0.4)
SMALL = {"queue_size": 16, "dim": 8, "bn_splits": 2}


def draw(method: Method, images: Images, seed: int = 2) -> dict[str, Tensor]:
    return method.views(images, AUGMENT, Generator().manual_seed(seed))


def in_double(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def length_one(x: Tensor) -> Tensor:
    return torch.stack([row / row.square().sum().sqrt() for row in x])


def steps(method: Method, images: Images, count: int):
    """Train for `count` steps, a yield after each loss and one after each `after_step`."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for step in range(count):
        loss, _ = method.loss(draw(method, images, seed=step))
        yield "loss"
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step / count)
        yield "step"


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("key_batch_norm", ["shuffled", "plain"])
def test_the_loss_is_the_papers(encoder: Encoder, images: Images, symmetric: bool, key_batch_norm: str) -> None:
    """He et al. 2020, equation 1; symmetric: one term for each view as the query, added."""
    method = Method(encoder, symmetric=symmetric, key_batch_norm=key_batch_norm, temperature=0.3, **SMALL).double()
    nn.init.normal_(method.keys.network[1][-1].weight)  # another network than the queries'
    batch = in_double(draw(method, images))
    expected = 0.0
    for query_view, key_view in [("first", "second"), ("second", "first")][: 1 + symmetric]:
        order = batch[f"{key_view}_order"].tolist() if key_batch_norm == "shuffled" else list(range(8))
        keys = length_one(method.keys.network(batch[key_view][order]))
        queries = length_one(method.projector(method.encoder(batch[query_view])))
        for i, query in enumerate(queries):
            own = math.exp(float(query @ keys[order.index(i)]) / 0.3)
            others = sum(math.exp(float(query @ key) / 0.3) for key in method.keys.queue.keys)
            expected += -math.log(own / (own + others)) / 8
    assert abs(method.loss(batch)[0] - expected) < 1e-10


def test_the_logged_scalars(encoder: Encoder, images: Images) -> None:
    _, scalars = Method(encoder, **SMALL).loss(draw(Method(encoder, **SMALL), images))
    assert set(scalars) == {"positive_similarity", "negative_similarity", "feature_std"}
    assert 0 < scalars["feature_std"] < 1


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_queue_never_holds_an_images_own_key_when_the_loss_is_taken(
    encoder: Encoder, images: Images, symmetric: bool
) -> None:
    method = Method(encoder, symmetric=symmetric, queue_size=64, dim=8, bn_splits=2)
    encode, fresh, clashes, enqueued = method.keys.encode, [], [], 0

    def watched(view: Tensor, order: Tensor | None) -> Tensor:
        fresh.extend(keys := encode(view, order))
        return keys

    method.keys.encode = watched
    for moment in steps(method, images, 3):
        held = [(key == method.keys.queue.keys).all(dim=1).any().item() for key in fresh]
        if moment == "loss":
            clashes += held
        else:
            assert all(held)
            enqueued += len(fresh)
            assert int(method.keys.queue.pointer) == enqueued % 64
            fresh.clear()
    assert len(clashes) == enqueued == 3 * 8 * (1 + symmetric)
    assert not any(clashes)


def test_both_terms_of_a_symmetric_loss_see_the_same_queue(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, symmetric=True, **SMALL)
    before = method.keys.queue.keys.clone()
    method.loss(draw(method, images))
    assert torch.equal(method.keys.queue.keys, before)


def test_the_key_encoder_is_the_average_of_the_query_encoders(encoder: Encoder, images: Images) -> None:
    """Equation 2, the reference's order: θ_k is moved towards the current θ_q before each encoding, the first too."""
    method = Method(encoder, momentum=0.7, **SMALL)

    def online() -> list[Tensor]:
        return [p.detach().double() for net in (method.encoder, method.projector) for p in net.parameters()]

    expected = online()
    queries = [expected] + [online() for moment in steps(method, images, 3) if moment == "step"]
    for weights in queries:
        expected = [0.7 * mine + 0.3 * theirs for mine, theirs in zip(expected, weights, strict=True)]
    for found, mine in zip(method.keys.network.parameters(), expected, strict=True):
        torch.testing.assert_close(found.double(), mine, atol=1e-6, rtol=1e-5)
    assert not torch.equal(method.keys.network[0].net.conv1.weight, method.encoder.net.conv1.weight)


def test_no_gradient_reaches_the_keys(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, symmetric=True, **SMALL)
    method.loss(draw(method, images))[0].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.keys.parameters())
    assert all(parameter.grad is not None for parameter in method.projector.parameters())


def test_a_batch_that_does_not_divide_the_queue_is_named(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, queue_size=20, dim=8)
    method.loss(draw(method, images))
    with pytest.raises(
        ValueError, match=r"method\.queue_size: 20 is not a multiple of the 8 keys .* take 16, or another"
    ):
        method.after_step(0.0)


def test_batch_norm_and_head_as_asked(encoder: Encoder, images: Images) -> None:
    plain = Method(encoder, key_batch_norm="plain", head="linear", **SMALL)
    assert not any(isinstance(module, SplitBatchNorm) for module in plain.modules())
    assert len(plain.projector) == 1
    assert set(draw(plain, images)) == {"first", "second"}
    shuffled = Method(encoder, **SMALL)
    for network in (shuffled.encoder, shuffled.keys.network):
        assert all(module.num_splits == 2 for module in network.modules() if isinstance(module, SplitBatchNorm))
        assert any(isinstance(module, SplitBatchNorm) for module in network.modules())
    assert [layer.out_features for layer in shuffled.projector if isinstance(layer, nn.Linear)] == [64, 8]
    assert set(draw(shuffled, images)) == {"first", "second", "second_order"}
