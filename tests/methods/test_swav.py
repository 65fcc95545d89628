"""SwAV: the loss and the assignments to the formulas, the queue, and prototypes on their way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.swav import Method, sinkhorn
from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder
from ssl_sweep.training import loop
from ssl_sweep.training.loop import Stage, fit
from ssl_sweep.training.optimizers import Recipe

SMALL = {"hidden_dim": 16, "dim": 6, "prototypes": 5}


def draw(method: Method, images: Images, seed: int = 2) -> dict[str, Tensor]:
    return method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(seed))


def balanced(scores: np.ndarray, epsilon: float, iterations: int = 3) -> np.ndarray:
    """Caron et al. 2020, appendix A, sinkhorn: by products, of scores (N, K)."""
    q = np.exp(scores / epsilon).T  # (K, N)
    q /= q.sum()
    for _ in range(iterations):
        q *= (1 / len(q) / q.sum(axis=1))[:, None]
        q *= (1 / q.shape[1] / q.sum(axis=0))[None, :]
    return (q / q.sum(axis=0)).T


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def length_one(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def train(method: Method, images: Images, steps: int, of: int = 10, **settings: float) -> None:
    """So many of `of` steps."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, **settings)
    for step in range(steps):
        optimizer.zero_grad()
        method.loss(draw(method, images, seed=step))[0].backward()
        optimizer.step()
        method.after_step(step / of)


@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_assignments_are_the_papers(epsilon: float) -> None:
    scores = torch.rand(12, 5, dtype=torch.float64, generator=Generator().manual_seed(0)) * 2 - 1
    found = sinkhorn(scores, torch.zeros(12, dtype=torch.float64), epsilon, 3)
    np.testing.assert_allclose(found.numpy(), balanced(scores.numpy(), epsilon), rtol=1e-10)


def test_many_iterations_give_every_prototype_an_equal_share() -> None:
    found = sinkhorn(torch.randn(12, 4, generator=Generator().manual_seed(0)), torch.zeros(12), 0.5, 200)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12))
    torch.testing.assert_close(found.sum(dim=0), torch.full((4,), 3.0))


def test_a_sharp_assignment_does_not_overflow() -> None:
    scores = torch.randn(12, 4, generator=Generator().manual_seed(0)).clamp(-1, 1)
    found = sinkhorn(scores, torch.zeros(12), 0.001, 3)  # exp(1000) is infinite
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12))


def test_a_row_without_weight_has_no_part_in_the_shares() -> None:
    scores = torch.randn(12, 4, dtype=torch.float64, generator=Generator().manual_seed(0))
    weights = torch.tensor([0.0] * 8 + [-torch.inf] * 4, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(scores, weights, 0.5, 3)[:8], sinkhorn(scores[:8], weights[:8], 0.5, 3))


@torch.no_grad()
@pytest.mark.parametrize(("local_crops", "queue_size"), [(0, 0), (3, 0), (2, 10)])
def test_the_loss_is_the_papers(encoder: Encoder, images: Images, local_crops: int, queue_size: int) -> None:
    """Caron et al. 2020, equations 2 and 6: each assigned crop against every other crop."""
    method = Method(encoder, local_crops=local_crops, queue_size=queue_size, **SMALL).double()
    method.steps.fill_(2)  # sixteen images: the queue is full
    method.progress.fill_(0.5)
    batch = {name: view.double() for name, view in draw(method, images).items()}
    names = ["first", "second", *(f"local{number}" for number in range(local_crops))]
    assert list(batch) == names
    groups = [names[:2], names[2:]] if local_crops else [names]  # batch statistics are those of a size
    features = torch.cat([method.encoder(torch.cat([batch[name] for name in group])) for group in groups])
    z = length_one(method.projector(features).numpy()).reshape(len(names), 8, 6)
    method.prototypes.copy_(torch.nn.functional.normalize(method.prototypes, dim=1))  # were of length 1 in fp32
    prototypes = method.prototypes.numpy()
    terms = []
    for assigned in range(2):
        past = [method.queues[assigned].keys.numpy()] if queue_size else []
        q = balanced(np.concatenate([z[assigned], *past]) @ prototypes.T, 0.05)[:8]
        for crop in range(len(names)):
            if crop != assigned:
                log_p = log_softmax(z[crop] @ prototypes.T / 0.1)
                terms.append(-(q * log_p).sum(axis=1).mean())
    loss, scalars = method.loss(batch)
    assert len(terms) == 2 * (len(names) - 1)
    assert abs(loss - np.mean(terms)) < 1e-10
    assert set(scalars) == {"prototype_entropy", "assignment_entropy", "feature_std"}
    assert all(0 < value < 1.5 for value in scalars.values())


def test_local_crops_are_small_in_both_senses(encoder: Encoder) -> None:
    """The images' left half is black: a crop of at most 0.14 of the area can miss one half, one of 0.9 cannot."""
    pixels = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    pixels[:, :, :, 8:] = 255
    images = Images(pixels, torch.full((64, 2), 16))
    method = Method(encoder, local_crops=2, **SMALL)
    batch = method.views(images, Augment(16, crop_scale_min=0.9, mask_ratio=0.1), Generator().manual_seed(0))
    assert batch["first"].shape == (64, 3, 16, 16)
    assert batch["local0"].shape == batch["local1"].shape == (64, 3, 7, 7)
    darkest, brightest = batch["local0"].flatten(1).aminmax(dim=1)
    assert 0.3 < ((brightest < 0.1) | (darkest > 0.9)).float().mean() < 0.9
    assert not torch.equal(batch["local0"], batch["local1"])


@torch.no_grad()
def test_transformers_see_local_crops_of_whole_patches_and_others_none(images: Images) -> None:
    method = Method(ENCODERS["vit_tiny"](16, patch_size=4), local_crops=1, **SMALL)
    batch = draw(method, images)
    assert batch["local0"].shape == (8, 3, 8, 8)
    assert bool(method.loss(batch)[0].isfinite())
    encoder = build_encoder({"name": "torchvision/vit_b_16"}, 32)
    with pytest.raises(ValueError, match=r"local_side: 0.429: the encoder cannot see local crops: .*; use 1$"):
        Method(encoder, **SMALL)
    assert Method(encoder, local_side=1.0, **SMALL).local_side == 32


def test_the_queue_waits_until_it_is_full_and_its_time_has_come(encoder: Encoder, images: Images) -> None:
    @torch.no_grad()
    def loss(method: Method) -> float:
        return float(method.loss(draw(method, images, seed=50))[0])

    torch.manual_seed(0)
    method = Method(encoder, local_crops=0, queue_size=16, queue_start=0.25, **SMALL).eval()
    other = Method(encoder, local_crops=0, queue_size=0, **SMALL).eval()
    other.load_state_dict({name: x for name, x in method.state_dict().items() if "queues" not in name})
    same = []
    for step in range(4):
        same.append(loss(method) == pytest.approx(loss(other), rel=1e-5))  # scaling prototypes to length 1 rounds
        method.loss(draw(method, images, seed=step))
        method.after_step(step / 10)
    same.append(loss(method) == pytest.approx(loss(other), rel=1e-5))
    assert same == [True] * 4 + [False]  # full after the second step, used after the one at 0.3
    late = Method(encoder, local_crops=0, queue_size=64, queue_start=0.0, **SMALL).eval()
    late.load_state_dict({**late.state_dict(), **other.state_dict()})
    late.after_step(0.5)
    assert loss(late) == pytest.approx(loss(other), rel=1e-5)  # not full


@torch.no_grad()
def test_the_queues_hold_the_newest_projections_of_each_crop(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, local_crops=1, queue_size=12, **SMALL).eval()
    found = []
    for step in range(2):
        batch = draw(method, images, seed=step)
        found.append([method.projector(method.encoder(batch[name])) for name in ("first", "second")])
        method.loss(batch)
        method.after_step(0.1)
    for number, queue in enumerate(method.queues):
        newest = torch.cat([found[0][number], found[1][number]])[4:]
        rows = {tuple(round(value, 5) for value in row) for row in queue.keys.tolist()}
        expected = torch.from_numpy(length_one(newest.numpy())).tolist()
        assert rows == {tuple(round(value, 5) for value in row) for row in expected}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_prototypes_are_frozen_at_first_and_then_stay_of_length_one(
    encoder: Encoder, images: Images, momentum: float
) -> None:
    method = Method(encoder, local_crops=0, frozen_steps=2, **SMALL)
    before = method.prototypes.detach().clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(5))
    train(method, images, 2, momentum=momentum, weight_decay=0.1)
    torch.testing.assert_close(method.prototypes.detach(), before)
    train(method, images, 1, momentum=momentum, weight_decay=0.1)
    assert not torch.allclose(method.prototypes, before, atol=1e-4)
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(5))


def test_no_gradient_passes_through_the_assignments(encoder: Encoder, images: Images) -> None:
    """Of a step with exact assignments, the gradient of a logit is (p − q)/τ: the prototypes' follows from it."""
    method = Method(encoder, local_crops=0, **SMALL).double().eval()
    batch = {name: view.double() for name, view in draw(method, images).items()}
    method.loss(batch)[0].backward()
    with torch.no_grad():
        z = [length_one(method.projector(method.encoder(batch[name])).numpy()) for name in ("first", "second")]
    prototypes = method.prototypes.detach().numpy()
    expected = np.zeros_like(prototypes)
    for assigned, crop in ((0, 1), (1, 0)):
        p, q = np.exp(log_softmax(z[crop] @ prototypes.T / 0.1)), balanced(z[assigned] @ prototypes.T, 0.05)
        expected += (p - q).T @ z[crop] / 0.1 / 8 / 2
    np.testing.assert_allclose(method.prototypes.grad.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("batch_size", "images", "queue", "frozen"),
    [
        (256, 1_281_167, 3840, 5004),
        (4096, 1_281_167, 0, 312),
        (128, 2000, 1920, 15),
        (128, 1920, 1792, 15),
        (64, 64, 0, 1),
    ],
)
def test_sizes_fit_the_batch_and_the_training_set(batch_size: int, images: int, queue: int, frozen: int) -> None:
    settings = {"queue_size": None, "frozen_steps": None, "prototypes": 3000}
    found = {"queue_size": queue, "frozen_steps": frozen}
    assert Method.defaults_for(settings, batch_size, images) == found
    written = {"queue_size": 0, "frozen_steps": 7, "prototypes": 3000}
    assert Method.defaults_for(written, batch_size, images) == {"queue_size": 0, "frozen_steps": 7}


def trained(folder: Path, images: Images, epochs: int, seed: int = 0) -> dict[str, Tensor]:
    """The state after so many of two epochs of two steps, the queue in use from the third step on."""
    torch.manual_seed(seed)
    encoder = ENCODERS["resnet18"](16, width=8)
    method = Method(encoder, local_crops=1, queue_size=8, queue_start=0.25, frozen_steps=2, **SMALL)

    def loss(indices: Tensor, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        some = Images(images.pixels[indices], images.sizes[indices])
        return method.loss(method.views(some, Augment(16), rng))

    def after_epoch(epoch: loop.Epoch) -> None:
        if epoch.number == epochs:
            raise loop.Stop

    stage = Stage(folder, lambda metrics, step: None, 3, torch.device("cpu"))
    with pytest.raises(loop.Stop):
        fit(method, loss, 8, Recipe(epochs=2, batch_size=4, lr=0.1), stage, after_epoch)
    return method.state_dict()


def test_stopped_and_resumed_equals_unbroken_with_queue_and_prototypes(images: Images, tmp_path: Path) -> None:
    unbroken = trained(tmp_path / "unbroken", images, epochs=2)
    stopped = trained(tmp_path / "stopped", images, epochs=1)
    resumed = trained(tmp_path / "stopped", images, epochs=2, seed=1)
    assert not torch.equal(stopped["prototypes"], unbroken["prototypes"])
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)
