"""Fine-tuning against a loop written out, and what the training images look like."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.data.views import Augment, center
from ssl_sweep.evaluations.finetune import evaluate
from ssl_sweep.knobs import knobs
from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.training.classifier import training_inputs
from ssl_sweep.training.loop import Stage, Stop

CPU = torch.device("cpu")


class Perceptron(nn.Module):
    feature_dim = 32

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 32), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.contiguous())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("digits")
    return load_splits(Data(source="digits", image_size=8), root=folder, cache=folder)


def test_the_defaults_are_the_overlay_papers() -> None:
    assert knobs.check(evaluate, {}, "finetune") == {
        "epochs": 20,
        "batch_size": 256,
        "optimizer": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "augment": "none",
        "beta2": 0.999,
        "nesterov": False,
        "decay_norm_and_bias": None,
        "decay_tokens": True,
        "warmup_epochs": 0.0,
        "final_lr": 0.0,
        "clip_norm": None,
        "layer_decay": 1.0,
        "drop_path": 0.0,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "rand_augment": None,
        "ema": None,
        "refit": False,
    }


def test_encoder_and_head_are_trained_as_in_a_loop_written_out(digits: Splits, tmp_path: Path) -> None:
    everything = torch.arange(len(digits.train))
    images, labels = digits.train.batch(everything).pixels / 255, digits.train.labels
    reports: list[dict[str, float]] = []
    torch.manual_seed(0)
    stage = Stage(tmp_path, lambda metrics, step: reports.append(metrics), 0, CPU)
    # one step an epoch, so that the order does not matter
    metrics = evaluate(Perceptron(), digits, stage, epochs=8, batch_size=len(everything), lr=0.3, weight_decay=0.01)

    torch.manual_seed(0)
    body, head = Perceptron(), nn.Linear(32, 10)
    parameters = [*body.parameters(), *head.parameters()]
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    losses = []
    for epoch in range(8):
        rate = 0.3 * (1 + math.cos(math.pi * epoch / 8)) / 2
        loss = F.cross_entropy(head(body(images)), labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, v, gradient in zip(parameters, velocity, gradients, strict=True):
                v.mul_(0.9).add_(gradient + 0.01 * parameter)
                parameter -= rate * v
    assert [report["loss"] for report in reports] == pytest.approx(losses, rel=1e-4)
    shown = digits.test.batch(torch.arange(len(digits.test)))
    right = (head(body(shown.pixels / 255)).argmax(dim=1) == digits.test.labels).double().mean().item()
    assert metrics["top1_test"] == pytest.approx(100 * right, abs=0.5)  # an answer may tip over by rounding


EVERYTHING: dict[str, Any] = {
    "epochs": 2, "batch_size": 16, "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.05, "augment": "crop_flip",
    "decay_norm_and_bias": False, "decay_tokens": False, "warmup_epochs": 0.5, "clip_norm": 1.0, "final_lr": 0.01,
    "layer_decay": 0.75, "drop_path": 0.1, "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "rand_augment": 9,
    "ema": 0.99,
}  # fmt: skip


def test_a_transformer_tuned_as_in_mae_resumes_to_the_bit(digits: Splits, tmp_path: Path) -> None:
    """Draws of augmentations and dropped paths, the schedules and the average of the weights go on where they were."""

    def tuned(folder: Path, seed: int, *, stop: bool = False) -> dict[str, float]:
        def report(metrics: dict[str, float], step: int) -> None:
            if stop:
                raise Stop

        torch.manual_seed(seed)
        encoder = ENCODERS["vit_tiny"](8, patch_size=4)
        return evaluate(encoder, few, Stage(folder, report, 0, CPU), **EVERYTHING)

    packs = {name: getattr(digits, name).subset(torch.arange(40)) for name in ("train", "val", "test")}
    few = replace(digits, **packs)
    unbroken = tuned(tmp_path / "unbroken", 0)
    with pytest.raises(Stop):
        tuned(tmp_path / "broken", 0, stop=True)
    assert tuned(tmp_path / "broken", 1) == unbroken
    state = [torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("unbroken", "broken")]
    assert all(torch.equal(value, state[1][name]) for name, value in state[0].items())


def test_training_images_are_centre_crops_or_random_crops_from_the_passed_generator(digits: Splits) -> None:
    indices = torch.tensor([5, 3, 8])
    images = digits.train.batch(indices)
    stage = Stage(Path(), lambda metrics, step: None, 0, CPU)
    still = training_inputs(digits.train, 8, stage, "none")
    moving = training_inputs(digits.train, 8, stage, "crop_flip")
    rng = torch.Generator().manual_seed(1)
    shown, labels = still(indices, rng)
    assert torch.equal(shown, center(images, 8))
    assert torch.equal(labels, digits.train.labels[indices])
    first, labels = moving(indices, rng)
    second, _ = moving(indices, rng)
    assert torch.equal(first, Augment(8, crop_scale_min=0.08).view(images, torch.Generator().manual_seed(1)))
    assert torch.equal(labels, digits.train.labels[indices])
    assert not torch.equal(first, second)
