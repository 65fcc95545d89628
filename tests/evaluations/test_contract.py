"""Every file of evaluations/: it returns what it declares, goes on where it stopped, and its top-1 means something."""

import importlib
import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.splits import Splits
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import Evaluation, load_evaluation
from ssl_sweep.training.loop import Stage, Stop

CLASSES = 4
BRIEF = {"epochs": 12, "batch_size": 32}
# settings that suit 160 flat images: a file that is not here is run at its defaults
SHORT: dict[str, list[dict[str, Any]]] = {
    "finetune": [{**BRIEF, "lr": 0.1}, {**BRIEF, "lr": 0.1, "augment": "crop_flip"}],
    "linear": [{**BRIEF, "lr": 1.0}, {**BRIEF, "lr": [0.5, 1.0], "weight_decay": [0.0, 1e-3], "augment": "crop_flip"}],
    "knn": [{}, {"k": [1, 20]}],
    "transfer": [
        {**BRIEF, "sources": ["imagefolder:flowers", "digits"], "lr": [0.5, 1.0]},
        {**BRIEF, "sources": ["digits"], "protocol": "finetune", "lr": 0.1},
        {"sources": ["digits"], "protocol": "knn"},
    ],
    "robustness": [{}, {**BRIEF, "changes": ["crop", "flip"]}],
    "label_free": [{"view_images": 50, "views": 3}],
    "semi_supervised": [{"fractions": [5, 20], "epochs_per_fraction": 15, "batch_size": 8, "lr": 0.1}],
}
NEEDS_BOXES = {"detection"}
REPORTS_TOP1_ONCE = {"transfer"}  # specs may name its mean to a pruner, which sees it after the last source
DECLARATIONS = ("metrics", "epoch_metrics", "planned_epochs", "data_sources", "check_data")
CASES = [
    pytest.param(name, settings, id=f"{name}-{number}")
    for name in knobs.names("evaluations")
    if name not in NEEDS_BOXES
    for number, settings in enumerate(SHORT.get(name, [{}]))
]
every_case = pytest.mark.parametrize(("name", "settings"), CASES)
Reports = list[tuple[dict[str, float], int]]


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
        sizes = torch.full((len(indices), 2), 8)
        return Images(self.pixels[indices], sizes, indices, self.labels[indices])

    def subset(self, indices: Tensor) -> "FakePack":
        view = FakePack(1, 0)
        view.pixels, view.labels = self.pixels[indices], self.labels[indices]
        return view


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
    return Splits(train, val, test, image_size=8, open_other=lambda source: splits(shuffled))


def run(
    name: str, settings: dict[str, Any], folder: Path, shuffled: bool = False, stop_at: int | None = None
) -> tuple[dict[str, float], Reports]:
    """The metrics and the reports; stopped by the report of that number, none."""
    reports: Reports = []

    def report(metrics: dict[str, float], step: int) -> None:
        reports.append((metrics, step))
        if len(reports) == stop_at:
            raise Stop("asked to")

    torch.manual_seed(0)
    stage = Stage(folder, report, 1, torch.device("cpu"))
    try:
        return load_evaluation(name).evaluate(Colours(), splits(shuffled), stage, **settings), reports
    except Stop:
        return {}, reports


def filled(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return knobs.knobs_of(load_evaluation(name).evaluate)(**settings).model_dump(mode="json")


def bare(metrics: Iterable[str]) -> set[str]:
    return {metric.split("/")[1] for metric in metrics}


def declared(name: str, settings: dict[str, Any]) -> set[str]:
    return bare(load_evaluation(name).metrics(filled(name, settings)))


TOP1_CASES = [case for case in CASES if "top1_val" in declared(*case.values)]
BEST_CASES = [case for case in TOP1_CASES if "top1_best_val" in declared(*case.values)]
top1_case = pytest.mark.parametrize(("name", "settings"), TOP1_CASES)


def test_the_usual_evaluations_measure_top1() -> None:
    assert {"finetune", "knn", "linear", "semi_supervised"} <= {case.values[0] for case in TOP1_CASES}


@top1_case
def test_high_on_separable_features(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    metrics, _ = run(name, settings, tmp_path)
    assert metrics["top1_val"] > 95
    assert metrics["top1_test"] > 95


@top1_case
def test_at_chance_on_labels_that_say_nothing(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    metrics, _ = run(name, settings, tmp_path, shuffled=True)
    assert 12 < metrics["top1_test"] < 38  # 25 by chance, 200 images


@every_case
def test_it_reports_and_returns_the_metrics_that_it_declares(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    metrics, reports = run(name, settings, tmp_path)
    assert set(metrics) == declared(name, settings)
    assert all(math.isfinite(value) for value in metrics.values())
    last, _ = reports[-1]
    assert {metric: last[metric] for metric in metrics} == metrics
    assert [step for _, step in reports] == list(range(1, len(reports) + 1))


@pytest.mark.parametrize("name", knobs.names("evaluations"))
def test_its_declarations_take_the_arguments_of_the_defaults(name: str) -> None:
    own = vars(importlib.import_module(f"ssl_sweep.evaluations.{name}"))
    assert "METRICS" in own or "metrics" in own
    for declaration in DECLARATIONS:
        if declaration in own:
            _, *expected = inspect.signature(getattr(Evaluation, declaration)).parameters
            assert list(inspect.signature(own[declaration]).parameters) == expected


@every_case
def test_its_declarations_follow_from_its_settings(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    evaluation, every_knob = load_evaluation(name), filled(name, settings)
    assert set(evaluation.epoch_metrics(every_knob)) <= set(evaluation.metrics(every_knob))
    assert all(metric.endswith("_val") for metric in evaluation.epoch_metrics(every_knob))
    assert evaluation.planned_epochs(every_knob) >= 0
    assert all(isinstance(source, str) for source in evaluation.data_sources(every_knob))
    evaluation.check_data(every_knob, tmp_path)


@every_case
def test_it_reports_the_metrics_of_pruners_after_each_epoch(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    evaluation, every_knob = load_evaluation(name), filled(name, settings)
    by_epoch, epochs = bare(evaluation.epoch_metrics(every_knob)), evaluation.epochs(every_knob)
    if by_epoch and name not in REPORTS_TOP1_ONCE:
        _, reports = run(name, settings, tmp_path)
        assert [step for metrics, step in reports if by_epoch <= metrics.keys()][:epochs] == list(range(1, epochs + 1))


@pytest.mark.parametrize(("name", "settings"), BEST_CASES)
def test_the_best_epoch_is_the_one_that_is_best_on_validation(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    metrics, reports = run(name, settings, tmp_path, shuffled=True)  # at chance, the best is seldom the last
    best, _ = max(reports, key=lambda report: report[0]["top1_val"])  # the first of equals
    assert (metrics["top1_best_val"], metrics["top1_best_test"]) == (best["top1_val"], best["top1_test"])


@every_case
def test_stopped_and_resumed_it_gives_the_same_metrics(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    expected, reports = run(name, settings, tmp_path / "unbroken")
    stop_at = (len(reports) + 1) // 2
    run(name, settings, tmp_path / "broken", stop_at=stop_at)
    metrics, resumed = run(name, settings, tmp_path / "broken")
    assert metrics == expected
    assert len(reports) == 1 or resumed[0][1] == stop_at + 1  # it goes on, it does not begin again
