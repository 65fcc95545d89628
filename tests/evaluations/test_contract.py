"""Every file of evaluations/: high on separable features, at chance on shuffled labels, resumed to the same result."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep import knobs
from ssl_sweep.data.images import Images
from ssl_sweep.data.splits import Splits
from ssl_sweep.training import Stage, Stop

CLASSES = 4
SHORT = {"finetune": {"epochs": 20, "batch_size": 32, "lr": 0.1}, "linear": {"epochs": 20, "batch_size": 32, "lr": 1.0}}
EVALUATIONS = knobs.names("evaluations")


class FakePack:
    """Flat-coloured images: a class a colour, with a little noise; or with labels that say nothing."""

    def __init__(self, num_images: int, seed: int, shuffled: bool = False) -> None:
        rng = torch.Generator().manual_seed(seed)
        colours = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200], [120, 120, 120]])
        shown = torch.arange(num_images) % CLASSES
        noise = torch.randint(-25, 26, (num_images, 3, 8, 8), generator=rng)
        self.pixels = (colours[shown][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
        self.labels = torch.randint(CLASSES, (num_images,), generator=rng) if shuffled else shown
        self.classes = tuple("abcd")
        self.skipped = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Images:
        return Images(self.pixels[indices], torch.full((len(indices), 2), 8))


class Colours(nn.Module):
    """The mean colour and a trainable map of it: separable as it stands."""

    feature_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.mean(dim=(2, 3)))


def splits(shuffled: bool = False) -> Splits:
    train, val, test = (FakePack(number, seed, shuffled) for seed, number in enumerate((160, 200, 200)))
    return Splits(train, val, test, image_size=8)


def run(name: str, folder: Path, shuffled: bool = False, report: Any = lambda metrics, step: None) -> dict[str, float]:
    torch.manual_seed(0)
    stage = Stage(folder, report, 1, torch.device("cpu"))
    return knobs.load("evaluations", name)(Colours(), splits(shuffled), stage, **SHORT.get(name, {}))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_high_on_separable_features(name: str, tmp_path: Path) -> None:
    metrics = run(name, tmp_path)
    assert metrics["top1_val"] > 95
    assert metrics["top1_test"] > 95


@pytest.mark.parametrize("name", EVALUATIONS)
def test_at_chance_on_labels_that_say_nothing(name: str, tmp_path: Path) -> None:
    metrics = run(name, tmp_path, shuffled=True)
    assert 12 < metrics["top1_test"] < 38  # 25 by chance, 200 images


@pytest.mark.parametrize("name", EVALUATIONS)
def test_it_reports_and_returns_the_metrics_that_it_declares(name: str, tmp_path: Path) -> None:
    reports: list[tuple[dict[str, float], int]] = []
    metrics = run(name, tmp_path, report=lambda *report: reports.append(report))
    settings = knobs.knobs_of(knobs.load("evaluations", name))(**SHORT.get(name, {})).model_dump()
    assert set(metrics) == {metric.split("/")[1] for metric in knobs.metrics(name, settings)}
    last, step = reports[-1]
    assert step == len(reports)
    assert {metric: last[metric] for metric in metrics} == metrics
    for split in ("val", "test"):
        assert metrics[f"top1_best_{split}"] == max(report[f"top1_{split}"] for report, _ in reports)


@pytest.mark.parametrize("name", [name for name in EVALUATIONS if name in SHORT])
def test_stopped_and_resumed_it_gives_the_same_metrics(name: str, tmp_path: Path) -> None:
    expected = run(name, tmp_path / "unbroken")

    def stop(metrics: dict[str, float], step: int) -> None:
        if step == 3:
            raise Stop("asked to")

    with pytest.raises(Stop):
        run(name, tmp_path / "broken", report=stop)
    assert run(name, tmp_path / "broken") == expected
