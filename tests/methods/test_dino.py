"""DINO: the loss to the formula, the teacher, the centre, and the temperature on their way."""

import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.dino import Method, relative_entropy
from ssl_sweep.models.encoders import ENCODERS, Encoder
from ssl_sweep.training import loop
from ssl_sweep.training.loop import Stage, fit
from ssl_sweep.training.optimizers import Recipe

SMALL = {"hidden_dim": 16, "prototypes": 5}


def draw(method: Method, images: Images, seed: int = 2) -> dict[str, Tensor]:
    return method.views(images, Augment(16, brightness=0.4), Generator().manual_seed(seed))


def unlike_student(method: Method) -> Method:
    """`method` with a teacher and a centre of their own."""
    rng = Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
        method.center.copy_(torch.randn(5, generator=rng) / 10)
    return method


def logits(encoder: nn.Module, head: nn.Module, x: Tensor) -> list[list[float]]:
    """Cosines of the head's output to each prototype, by hand."""
    rows = []
    for z in head.projector(encoder(x)).tolist():
        length = math.sqrt(sum(value**2 for value in z))
        row = []
        for prototype in head.prototypes.tolist():
            norm = math.sqrt(sum(value**2 for value in prototype))
            row.append(sum(a * b for a, b in zip(z, prototype, strict=True)) / (length * norm))
        rows.append(row)
    return rows


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize(("local_crops", "batch_norm"), [(0, True), (2, False)])
@torch.no_grad()
def test_the_loss_is_the_papers(encoder: Encoder, images: Images, local_crops: int, batch_norm: bool) -> None:
    """Caron et al. 2021, equations 1 to 3: each teacher view against each other student view."""
    method = unlike_student(Method(encoder, local_crops=local_crops, batch_norm=batch_norm, **SMALL).double())
    method.progress.fill_(0.05)  # half of the warm-up: 0.055
    assert any(isinstance(module, nn.BatchNorm1d) for module in method.head.modules()) == batch_norm
    batch = {name: view.double() for name, view in draw(method, images).items()}
    names = ["first", "second", *(f"local{number}" for number in range(local_crops))]
    assert list(batch) == names
    center, terms, means = method.center.tolist(), [], [0.0] * 5
    for t in ("first", "second"):
        for s in names:
            if s == t:
                continue
            students = logits(method.encoder, method.head, batch[s])
            teachers = logits(method.teacher[0], method.teacher[1], batch[t])
            for student, teacher in zip(students, teachers, strict=True):
                q = softmax([value / 0.1 for value in student])
                p = softmax([(value - c) / 0.055 for value, c in zip(teacher, center, strict=True)])
                terms.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
                means = [m + value for m, value in zip(means, teacher, strict=True)]
    loss, scalars = method.loss(batch)
    assert abs(loss - sum(terms) / len(terms)) < 1e-10
    assert set(scalars) == {"teacher_mean_entropy", "teacher_entropy", "feature_std"}

    method.after_step(0.05)  # equation 4
    expected = [0.9 * c + 0.1 * total / len(terms) for c, total in zip(center, means, strict=True)]
    torch.testing.assert_close(method.center, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)


def test_the_teacher_follows_and_gets_no_gradient(encoder: Encoder, images: Images) -> None:
    method = unlike_student(Method(encoder, momentum=0.9, **SMALL))
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    method.loss(draw(method, images))[0].backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.head.parameters())
    method.after_step(0.5)
    m = 1 - (1 - 0.9) / 2  # halfway on the cosine to 1
    online = [*method.encoder.parameters(), *method.head.parameters()]
    for old, new, own in zip(before, method.teacher.parameters(), online, strict=True):
        torch.testing.assert_close(new, m * old + (1 - m) * own)


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.04), (0.1, 0.055), (0.2, 0.07), (0.9, 0.07)])
@torch.no_grad()
def test_the_teachers_temperature_rises_over_the_warm_up(
    encoder: Encoder, images: Images, progress: float, temperature: float
) -> None:
    warming = Method(encoder, teacher_warmup=0.2, **SMALL).eval()
    batch = draw(warming, images)
    warming.after_step(progress)
    constant = Method(encoder, teacher_temperature=temperature, teacher_warmup=0.0, **SMALL).eval()
    constant.load_state_dict(warming.state_dict())
    torch.testing.assert_close(warming.loss(batch)[0], constant.loss(batch)[0])


def test_local_crops_are_small_and_differ(encoder: Encoder) -> None:
    """The images' left half is black: a crop of at most 0.4 of the area can miss one half, one of 0.9 cannot."""
    pixels = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    pixels[:, :, :, 8:] = 255
    images = Images(pixels, torch.full((64, 2), 16))
    method = Method(encoder, local_crops=2, **SMALL)
    batch = method.views(images, Augment(16, crop_scale_min=0.9), Generator().manual_seed(0))

    def missing(view: Tensor) -> Tensor:
        darkest, brightest = view.flatten(1).aminmax(dim=1)
        return (brightest < 0.1) | (darkest > 0.9)

    assert not missing(batch["first"]).any()
    assert missing(batch["local0"]).any()
    assert not torch.equal(batch["local0"], batch["local1"])
    assert batch["local0"].shape == batch["first"].shape


def test_relative_entropy_is_one_for_uniform_and_zero_for_certain() -> None:
    found = relative_entropy(torch.tensor([[0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.5]))


def trained(folder: Path, images: Images, epochs: int, seed: int = 0) -> dict[str, Tensor]:
    """The state after so many of two epochs of two steps."""
    torch.manual_seed(seed)
    method = Method(ENCODERS["resnet18"](16, width=8), **SMALL)

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


def test_stopped_and_resumed_equals_unbroken_with_its_centre(images: Images, tmp_path: Path) -> None:
    unbroken = trained(tmp_path / "unbroken", images, epochs=2)
    trained(tmp_path / "stopped", images, epochs=1)
    resumed = trained(tmp_path / "stopped", images, epochs=2, seed=1)
    assert unbroken["center"].abs().sum() > 0
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)
