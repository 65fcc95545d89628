"""DINO: the loss to the formula, the teacher, the centre, and the temperature on their way."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.multi_crop import local_augment
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.dino import Method
from ssl_sweep.models.encoders import ENCODERS, Encoder
from ssl_sweep.models.losses import relative_entropy
from ssl_sweep.training import loop
from ssl_sweep.training.declarations import evaluated_encoder
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
    knobs: dict[str, Any] = {"local_crops": local_crops, "batch_norm": batch_norm, **SMALL}
    method = unlike_student(Method(encoder, **knobs).double())
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
    assert batch["local0"].shape == (64, 3, 7, 7)  # 96/224 of the side


def test_local_crops_have_their_own_blur_and_solarisation(encoder: Encoder) -> None:
    """White and black halves: blurred edges are grey, solarised white is black. The views' mask is for global crops."""
    pixels = torch.zeros(32, 3, 16, 16, dtype=torch.uint8)
    pixels[:, :, :, 8:] = 255
    pixels[:, :, :, :2] = 160
    images = Images(pixels, torch.full((32, 2), 16))
    augment = Augment(16, crop_scale_min=1.0, flip=0.0, blur=1.0, solarize=1.0, mask_ratio=0.5, mask_patch=4)

    def brightest(**knobs: Any) -> Tensor:
        method = Method(encoder, local_crops=1, local_side=1.0, **knobs, **SMALL)
        return method.views(images, augment, Generator().manual_seed(0))["local0"].flatten(1).amax(dim=1)

    assert brightest(local_solarize=0.0).median() > 0.9
    assert brightest(local_solarize=1.0).max() < 0.51
    assert brightest(local_solarize=None).max() < 0.51
    plain = local_augment(augment, 8, (0.05, 0.4), blur=0.5, solarize=0.0)
    assert (plain.image_size, plain.blur, plain.solarize, plain.mask_ratio) == (8, 0.5, 0.0, 0.0)
    assert local_augment(replace(augment, blur=0.0), 8, (0.05, 0.4), blur=0.5, solarize=0.0).blur == 0
    assert local_augment(augment, 16, (0.05, 0.4), blur=None, solarize=None) == replace(
        augment, crop_scale_min=0.05, crop_scale_max=0.4
    )


def test_local_crops_of_a_transformer_are_of_whole_patches(images: Images) -> None:
    method = Method(ENCODERS["vit_tiny"](16, patch_size=4), local_crops=1, **SMALL)
    batch = draw(method, images)
    assert batch["local0"].shape[2:] == (8, 8)
    assert bool(method.loss(batch)[0].isfinite())
    with pytest.raises(
        ValueError, match=r"local_side: 0.42.* takes images of 16 pixels and none of 7 .*; use a larger one"
    ):
        Method(ENCODERS["drlim"](16), local_crops=1, **SMALL)


def test_the_teacher_is_evaluated_by_default(encoder: Encoder) -> None:
    method = unlike_student(Method(encoder, **SMALL))
    assert evaluated_encoder(method) is method.teacher[0]
    assert evaluated_encoder(Method(encoder, encoder_of="student", **SMALL)) is encoder
    assert evaluated_encoder(method).state_dict().keys() == encoder.state_dict().keys()


@pytest.fixture
def with_patches() -> Method:
    torch.manual_seed(3)
    encoder = ENCODERS["vit_tiny"](16, patch_size=4)
    method = unlike_student(Method(encoder, patch_weight=0.5, batch_norm=False, **SMALL)).double()
    with torch.no_grad():
        method.patch_center.copy_(torch.randn(5, generator=Generator().manual_seed(8)) / 10)
    return method


def by_prototype(head: nn.Module, tokens: Tensor) -> Tensor:
    return F.cosine_similarity(head.projector(tokens).unsqueeze(-2), head.prototypes, dim=-1)


@torch.no_grad()
def test_the_patch_loss_is_ibots(with_patches: Method, images: Images) -> None:
    """Zhou et al. 2022, equation 2: at masked places only, by the student's masked and the teacher's whole view."""
    method = with_patches
    batch = {name: view.double() if view.is_floating_point() else view for name, view in draw(method, images).items()}
    batch["first_mask"][0] = False  # an image without a mask
    expected, cross, sums = 0.0, 0.0, torch.zeros(5, dtype=torch.float64)
    tokens: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("first", "second"):
        conv, net, mask = method.encoder.net.conv_proj, method.encoder.net, batch[f"{name}_mask"]
        patches = conv(batch[name]).flatten(2).transpose(1, 2).clone()
        for image, row in mask.nonzero().tolist():
            patches[image, row] = method.mask_token
        sequence = torch.cat([net.class_token.expand(len(patches), -1, -1), patches], dim=1)
        tokens[name] = (net.encoder(sequence), method.teacher[0].tokens(batch[name]))
        seen = by_prototype(method.teacher[1], tokens[name][1][:, 1:])  # (B, N, K)
        own = by_prototype(method.head, tokens[name][0][:, 1:])
        sums += seen.mean(dim=(0, 1))
        for image in range(len(mask)):
            rows = mask[image].nonzero().flatten().tolist()
            for row in rows:
                p = softmax(((seen[image, row] - method.patch_center) / 0.04).tolist())
                q = softmax((own[image, row] / 0.1).tolist())
                expected -= sum(a * math.log(b) for a, b in zip(p, q, strict=True)) / len(rows) / len(mask) / 2
    for t, s in (("first", "second"), ("second", "first")):
        teacher = by_prototype(method.teacher[1], tokens[t][1][:, 0])  # (B, K)
        student = by_prototype(method.head, tokens[s][0][:, 0])
        p, q = ((teacher - method.center) / 0.04).softmax(1), (student / 0.1).log_softmax(1)
        cross -= float((p * q).sum(dim=1).mean()) / 2
    loss, scalars = method.loss(batch)
    assert float(scalars["patch_loss"]) == pytest.approx(expected, abs=1e-9)
    assert float(loss) == pytest.approx(cross + 0.5 * expected, abs=1e-9)
    before = method.patch_center.clone()
    method.after_step(0.0)
    torch.testing.assert_close(method.patch_center, 0.9 * before + 0.1 * sums / 2)


def test_the_patch_loss_trains_encoder_head_and_token(with_patches: Method, images: Images) -> None:
    batch = {k: view.double() if view.is_floating_point() else view for k, view in draw(with_patches, images).items()}
    with_patches.loss(batch)[0].backward()
    trained = [with_patches.mask_token, *with_patches.encoder.parameters(), *with_patches.head.parameters()]
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in trained)
    assert with_patches.mask_token.grad.abs().sum() > 0


def test_the_patch_loss_needs_patches_and_shares_in_order(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=r"patch_weight: .* has no patch tokens; use vit_tiny, vit_small or vit_base"):
        Method(encoder, patch_weight=1.0, **SMALL)
    with pytest.raises(ValueError, match=r"patch_mask_min: 0.6 is above patch_mask_max 0.5"):
        Method(encoder, patch_mask_min=0.6, **SMALL)


def test_relative_entropy_is_one_for_uniform_and_zero_for_certain() -> None:
    found = relative_entropy(torch.tensor([[0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.5]))


def trained(folder: Path, images: Images, epochs: int, seed: int = 0, *, patches: bool = False) -> dict[str, Tensor]:
    """The state after so many of two epochs of two steps."""
    torch.manual_seed(seed)
    knobs: dict[str, Any] = {"local_crops": 1, "patch_weight": 1.0} if patches else {}
    method = Method(
        ENCODERS["vit_tiny"](16, patch_size=8) if patches else ENCODERS["resnet18"](16, width=8), **SMALL, **knobs
    )

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


@pytest.mark.parametrize("patches", [False, True])
def test_stopped_and_resumed_equals_unbroken_with_its_centres(images: Images, tmp_path: Path, patches: bool) -> None:
    unbroken = trained(tmp_path / "unbroken", images, epochs=2, patches=patches)
    trained(tmp_path / "stopped", images, epochs=1, patches=patches)
    resumed = trained(tmp_path / "stopped", images, epochs=2, seed=1, patches=patches)
    assert all(unbroken[name].abs().sum() > 0 for name in ("center", "patch_center") if name in unbroken)
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)
