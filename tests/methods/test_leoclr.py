"""LeOCLR: the loss to the formula by both mechanisms, the uncropped query, and which keys are remembered."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.leoclr import Method
from ssl_sweep.models.encoders import Encoder

AUGMENT = Augment(16, brightness=0.4)
SMALL = {"queue_size": 16, "dim": 8, "bn_splits": 2}


def draw(method: Method, images: Images, augment: Augment = AUGMENT) -> dict[str, Tensor]:
    return method.views(images, augment, Generator().manual_seed(2))


def in_double(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def length_one(x: Tensor) -> Tensor:
    return torch.stack([row / row.square().sum().sqrt() for row in x])


@torch.no_grad()
def test_by_momentum_the_loss_is_the_papers(encoder: Encoder, images: Images) -> None:
    """Equations 2 and 3: ℓ(u, v¹) + ℓ(u, v²), the negatives of both the queue's; here the mean over the batch."""
    method = Method(encoder, temperature=0.3, **SMALL).double()
    nn.init.normal_(method.keys.network[1][-1].weight)  # another network than the queries'
    batch = in_double(draw(method, images))
    queries = length_one(method.projector(method.encoder(batch["whole"])))
    expected = 0.0
    for crop in ("first", "second"):
        order = batch[f"{crop}_order"].tolist()
        keys = length_one(method.keys.network(batch[crop][order]))
        for i, query in enumerate(queries):
            own = math.exp(float(query @ keys[order.index(i)]) / 0.3)
            others = sum(math.exp(float(query @ key) / 0.3) for key in method.keys.queue.keys)
            expected += -math.log(own / (own + others)) / 8
    assert abs(method.loss(batch)[0] - expected) < 1e-10


@torch.no_grad()
def test_end_to_end_the_loss_is_simclrs_of_each_pair(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, mechanism="end_to_end", temperature=0.3, dim=8).double()
    batch = in_double(draw(method, images))
    whole, *crops = (length_one(method.projector(method.encoder(batch[view]))) for view in ("whole", "first", "second"))
    expected = 0.0
    for crop in crops:
        z = [*whole, *crop]
        for i in range(16):
            total = sum(math.exp(float(z[i] @ z[k]) / 0.3) for k in range(16) if k != i)
            expected -= math.log(math.exp(float(z[i] @ z[(i + 8) % 16]) / 0.3) / total) / 16
    assert abs(method.loss(batch)[0] - expected) < 1e-10


def test_the_query_is_the_whole_image_and_the_keys_are_crops(encoder: Encoder, images: Images) -> None:
    batch = draw(Method(encoder, **SMALL), images, Augment(16, flip=0.0, crop_scale_max=0.5))
    torch.testing.assert_close(batch["whole"], images.pixels / 255)
    assert not torch.allclose(batch["first"], batch["second"], atol=0.1)
    assert not torch.allclose(batch["first"], batch["whole"], atol=0.1)


@pytest.mark.parametrize(("enqueue", "count"), [("k1", 8), ("both", 16)])
def test_the_queue_takes_the_keys_asked_for_after_the_step(
    encoder: Encoder, images: Images, enqueue: str, count: int
) -> None:
    method = Method(encoder, enqueue=enqueue, **SMALL)
    before = method.keys.queue.keys.clone()
    batch = draw(method, images)
    method.loss(batch)
    fresh = torch.cat([method.keys.encode(batch[crop], batch[f"{crop}_order"]) for crop in ("first", "second")])
    assert torch.equal(method.keys.queue.keys, before)
    method.after_step(0.0)
    torch.testing.assert_close(method.keys.queue.keys, torch.cat([fresh[:count], before[count:]]))


def test_by_momentum_no_gradient_reaches_the_keys_and_the_average_moves(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, momentum=0.7, **SMALL)
    method.loss(draw(method, images))[0].backward()
    assert all(parameter.grad is None for parameter in method.keys.parameters())
    weight, average = method.encoder.net.conv1.weight, method.keys.network[0].net.conv1.weight
    before = average.clone()
    with torch.no_grad():
        weight.add_(1)
    method.after_step(0.0)
    torch.testing.assert_close(average, 0.7 * before + 0.3 * weight)


def test_end_to_end_both_branches_learn(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, mechanism="end_to_end", dim=8)
    assert method.keys is None
    batch = draw(method, images)
    assert set(batch) == {"whole", "first", "second"}
    views = {name: view.clone().requires_grad_() for name, view in batch.items()}
    method.loss(views)[0].backward()
    assert all(view.grad.abs().sum() > 0 for view in views.values())
    method.after_step(0.0)
    by_momentum = {name: view.detach().requires_grad_() for name, view in views.items()}
    Method(encoder, key_batch_norm="plain", **SMALL).loss(by_momentum)[0].backward()
    assert by_momentum["whole"].grad.abs().sum() > 0
    assert by_momentum["first"].grad is by_momentum["second"].grad is None
