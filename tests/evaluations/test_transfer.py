"""Transfer from the digits to two folders of coloured squares, each with its own classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.evaluations.transfer import data_sources, evaluate, slugs
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.training.loop import Stage, Stop

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
SOURCES = ("imagefolder:hues", "imagefolder:pair")
FINETUNE = {"protocol": "finetune", "epochs": 6, "batch_size": 8, "lr": 0.3}
LINEAR = {"protocol": "linear", "epochs": 6, "batch_size": 8}


class Colours(nn.Module):
    """The mean colour and a trainable map of it."""

    feature_dim = 6

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.map(x.mean(dim=(2, 3)))
        return mapped


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Splits:
    root = tmp_path_factory.mktemp("sources")
    for name, classes in {"hues": ["red", "green", "blue"], "pair": ["red", "blue"]}.items():
        for split, count in (("train", 20), ("test", 10)):
            for colour in classes:
                folder = root / name / split / colour
                folder.mkdir(parents=True)
                for number in range(count):
                    shade = tuple(value + number for value in COLOURS[colour])
                    Image.new("RGB", (9, 8), shade).save(folder / f"{number}.png")
    return load_splits(Data(source="digits", image_size=8, val_fraction=0.2), root=root, cache=cache)


def run(
    splits: Splits, folder: Path, stop_at: int | None = None, **settings: Any
) -> tuple[dict[str, float], list[tuple[int, dict[str, float]]]]:
    reports: list[tuple[int, dict[str, float]]] = []

    def report(metrics: dict[str, float], step: int) -> None:
        reports.append((step, metrics))
        if step == stop_at:
            raise Stop("asked to")

    stage = Stage(folder, report, 3, torch.device("cpu"))
    return evaluate(Colours(), splits, stage, **{"sources": SOURCES, **settings}), reports


def losses(reports: list[tuple[int, dict[str, float]]], source: str) -> list[float]:
    return [metrics[f"loss_{source}"] for _, metrics in reports if f"loss_{source}" in metrics]


@pytest.mark.parametrize("settings", [FINETUNE, LINEAR, {"protocol": "knn"}], ids=lambda each: each["protocol"])
def test_every_source_is_measured_with_its_own_classes(
    splits: Splits, tmp_path: Path, settings: dict[str, Any]
) -> None:
    found, reports = run(splits, tmp_path, **settings)
    filled = knobs.check(evaluate, {"sources": list(SOURCES), **settings}, "transfer")
    assert sorted(f"transfer/{name}" for name in found) == sorted(load_evaluation("transfer").metrics(filled))
    assert [step for step, _ in reports] == list(range(1, len(reports) + 1))
    assert found == reports[-1][1]
    for split in ("val", "test"):
        assert found[f"top1_hues_{split}"] > 90
        assert found[f"top1_pair_{split}"] > 90
        assert found[f"top1_{split}"] == (found[f"top1_hues_{split}"] + found[f"top1_pair_{split}"]) / 2


def test_fine_tuning_starts_from_the_pretrained_encoder_each_time(splits: Splits, tmp_path: Path) -> None:
    pretrained = Colours()
    stage = Stage(tmp_path, lambda metrics, step: None, 3, torch.device("cpu"))
    evaluate(pretrained, splits, stage, sources=SOURCES, **FINETUNE)
    assert torch.equal(pretrained.map.weight, Colours().map.weight)
    both = losses(run(splits, tmp_path / "both", **FINETUNE)[1], "pair")
    assert len(both) == FINETUNE["epochs"]
    assert losses(run(splits, tmp_path / "alone", sources=SOURCES[1:], **FINETUNE)[1], "pair") == both


@pytest.mark.parametrize("settings", [FINETUNE, LINEAR], ids=lambda each: each["protocol"])
def test_a_finished_source_is_not_run_again(splits: Splits, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected, _ = run(splits, tmp_path / "unbroken", **settings)
    stop_at = settings["epochs"] + 2  # in the second source
    with pytest.raises(Stop):
        run(splits, tmp_path / "broken", stop_at, **settings)
    found, reports = run(splits, tmp_path / "broken", **settings)
    assert found == expected
    assert [step for step, _ in reports] == list(range(stop_at + 1, 2 * settings["epochs"] + 2))


@pytest.mark.parametrize("settings", [FINETUNE, LINEAR], ids=lambda each: each["protocol"])
def test_validation_chooses_the_learning_rate(splits: Splits, tmp_path: Path, settings: dict[str, Any]) -> None:
    found, _ = run(splits, tmp_path, sources=["imagefolder:hues"], **{**settings, "lr": (1e-9, 0.3, 1e-8)})
    assert found["top1_hues_val"] > 90  # chance is 33: the two that learn nothing are not taken
    assert found["top1_hues_test"] > 90


@pytest.mark.parametrize("settings", [FINETUNE, LINEAR, {"protocol": "knn"}], ids=lambda each: each["protocol"])
def test_a_refit_trains_the_best_rate_of_each_source_on_all_its_images(
    splits: Splits, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = settings if settings["protocol"] == "knn" else {**settings, "lr": (0.3, 1e-9)}  # the first of equals
    found, reports = run(splits, tmp_path, **settings, refit=True)
    filled = knobs.check(evaluate, {"sources": list(SOURCES), **settings, "refit": True}, "transfer")
    assert sorted(f"transfer/{name}" for name in found) == sorted(load_evaluation("transfer").metrics(filled))
    assert [step for step, _ in reports] == list(range(1, len(reports) + 1))
    assert all(found[f"top1_{source}_{split}"] > 90 for source in ("hues", "pair") for split in ("val", "test"))
    tested = [step for step, metrics in reports if any(name.endswith("_test") for name in metrics)]
    assert len(tested) == (1 if settings["protocol"] == "knn" else 2 * settings["epochs"] + 1)


def test_a_source_that_cannot_be_opened_is_named_with_its_place(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluate\.transfer\.sources: .*'imagefolder:hoes'"):
        run(splits, tmp_path, sources=["imagefolder:hoes"], protocol="knn")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["imagefolder:data/Flower17_128/", "torchvision:CIFAR10"], ["flower17_128", "cifar10"]),
        (["digits", "parquet:/sets/cars v2"], ["digits", "cars_v2"]),
        (["imagefolder:a/x", "imagefolder:b/x", "imagefolder:x_2", "digits", "digits"],
         ["x", "x_2", "x_2_2", "digits", "digits_2"]),
        (["imagefolder:..", "parquet:花"], ["imagefolder", "parquet"]),
    ],
)  # fmt: skip
def test_sources_have_short_names(sources: list[str], expected: list[str]) -> None:
    assert slugs(sources) == dict(zip(expected, sources, strict=True))


def test_a_driver_can_ask_which_data_is_opened() -> None:
    assert data_sources({"sources": ["digits", "imagefolder:x"]}) == ("digits", "imagefolder:x")


def test_a_source_without_labels_is_refused_by_its_name(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / "flat" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    splits = load_splits(Data(source="digits", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    stage = Stage(tmp_path, lambda metrics, step: None, 0, torch.device("cpu"))
    with pytest.raises(
        DataError, match=r"evaluate.transfer.sources: 'imagefolder:flat': no training image has a label"
    ):
        evaluate(Colours(), splits, stage, sources=("imagefolder:flat",), protocol="knn")
