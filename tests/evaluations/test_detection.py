"""Detection: AP against COCO's tool and against numbers by hand, and a few steps on a folder that the test writes."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.evaluations.detection import METRICS, evaluate, flipped
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.training.average_precision import average_precision, average_precision_metric, voc07_ap50
from ssl_sweep.training.loop import Stage, Stop

Found = dict[str, Tensor]
SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 4, "lr": 0.02, "image_side": 48, "proposals": 40}


def truth_of(boxes: list[list[float]], labels: list[int], difficult: list[bool] | None = None) -> Found:
    marks = torch.tensor(difficult or [False] * len(labels), dtype=torch.bool)
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels), "difficult": marks}


def found_of(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Found:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def ap(found: list[Found], truth: list[Found]) -> dict[str, float]:
    return average_precision(average_precision_metric(), found, truth)


def coco_ap(found: list[Found], truth: list[Found]) -> list[float]:
    """AP, AP50, AP75 by the COCO tool itself."""
    objects = [(image, *each) for image, t in enumerate(truth) for each in zip(t["boxes"], t["labels"], strict=True)]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(truth))],
        "categories": [{"id": label} for label in sorted({int(label) for _, _, label in objects})],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": int(label),
                "bbox": xywh(box),
                "area": area(box),
                "iscrowd": 0,
            }
            for number, (image, box, label) in enumerate(objects, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        results = [
            {"image_id": image, "category_id": int(label), "bbox": xywh(box), "score": float(score)}
            for image, each in enumerate(found)
            for box, label, score in zip(each["boxes"], each["labels"], each["scores"], strict=True)
        ]
        tool = COCOeval(coco, coco.loadRes(results), "bbox")
        tool.evaluate()
        tool.accumulate()
        tool.summarize()
    return [100 * float(value) for value in tool.stats[:3]]


def xywh(box: Tensor) -> list[float]:
    left, top, right, bottom = box.tolist()
    return [left, top, right - left, bottom - top]


def area(box: Tensor) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def test_ap_by_hand() -> None:
    truth = [truth_of([[0, 0, 100, 100], [200, 0, 300, 100]], [1, 1])]
    # right at IoU 0.80, of a wrong place, then right at IoU 0.60
    found = [found_of([[0, 0, 100, 80], [400, 400, 500, 500], [200, 0, 300, 60]], [1, 1, 1], [0.9, 0.8, 0.7])]
    # precision at a recall of one half: 1; of 1: 2/3. 101 points: 51 up to one half, 50 above
    both, one = (51 * 1 + 50 * 2 / 3) / 101, 51 / 101
    # both are right at the thresholds 0.50, 0.55, 0.60; the first alone up to 0.80: four more of ten
    expected = {"ap": 100 * (3 * both + 4 * one) / 10, "ap50": 100 * both, "ap75": 100 * one}
    # of 11 recalls six are at most one half, at a precision of 1, and five at 2/3
    expected["ap50_voc07"] = 100 * (6 * 1 + 5 * 2 / 3) / 11
    assert ap(found, truth) == pytest.approx(expected, abs=1e-4)
    assert list(ap(found, truth).values())[:3] == pytest.approx(coco_ap(found, truth), abs=1e-4)


def test_voc_counts_a_second_detection_as_wrong_and_a_difficult_object_as_nothing() -> None:
    box, hard, far = [0.0, 0.0, 100.0, 100.0], [200.0, 0.0, 300.0, 100.0], [500.0, 500.0, 600.0, 600.0]
    truth = [truth_of([box, hard], [1, 1], [False, True]), truth_of([far, box], [1, 2])]
    # the surest is right, its repetition wrong, the difficult one not counted, and class 2 is found in the wrong image
    found = [
        found_of([box, box, hard, box], [1, 1, 1, 2], [0.9, 0.8, 0.85, 0.9]),
        found_of([far], [1], [0.7]),
    ]
    # class 1: precision 1 up to a recall of one half, then 2/3: (6 + 5 * 2/3) / 11; class 2: 0
    assert voc07_ap50(found, truth) == pytest.approx(100 * (6 + 10 / 3) / 11 / 2)
    assert voc07_ap50(found, [truth_of([box], [3], [True])] * 2) == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ap_is_the_coco_tools_on_shaken_boxes(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    truth, found = [], []
    for _ in range(12):
        corner, side = 200 * torch.rand(6, 2, generator=rng), 20 + 80 * torch.rand(6, 2, generator=rng)
        boxes = torch.cat([corner, corner + side], dim=1)
        labels = torch.randint(1, 4, (6,), generator=rng)
        truth.append({"boxes": boxes, "labels": labels, "difficult": torch.zeros(6, dtype=torch.bool)})
        shaken = (boxes + 5 * torch.randn(6, 4, generator=rng))[:5]
        found.append({"boxes": shaken, "labels": labels[:5], "scores": torch.rand(5, generator=rng)})
    measured = ap(found, truth)
    assert 5 < measured["ap75"] < measured["ap50"] < 95
    assert list(measured.values())[:3] == pytest.approx(coco_ap(found, truth), abs=1e-4)


def test_difficult_objects_are_neither_missed_nor_wrong() -> None:
    easy, hard = [0.0, 0.0, 50.0, 50.0], [100.0, 0.0, 150.0, 50.0]
    truth = [truth_of([easy, hard], [1, 1], [False, True])]
    for boxes, scores in (([easy], [0.5]), ([hard, easy], [0.9, 0.5])):
        found = [found_of(boxes, [1] * len(boxes), scores)]
        assert ap(found, truth) == pytest.approx({"ap": 100, "ap50": 100, "ap75": 100, "ap50_voc07": 100})
    wrong = [found_of([hard, easy], [1, 1], [0.9, 0.5])]
    assert ap(wrong, [truth_of([easy], [1])])["ap50"] == pytest.approx(50)


def test_nothing_found_is_zero() -> None:
    assert ap([found_of([], [], [])], [truth_of([[0, 0, 9, 9]], [1])]) == {
        "ap": 0,
        "ap50": 0,
        "ap75": 0,
        "ap50_voc07": 0,
    }


def test_a_mirrored_box_covers_the_same_pixels() -> None:
    image = torch.zeros(3, 20, 30)
    image[:, 4:9, 2:12] = 1
    target = truth_of([[2, 4, 12, 9]], [1])
    mirrored, moved = flipped(image, target)
    left, top, right, bottom = (int(x) for x in moved["boxes"][0])
    assert mirrored[:, top:bottom, left:right].all()
    assert mirrored.sum() == image.sum()
    assert torch.equal(flipped(mirrored, moved)[1]["boxes"], target["boxes"])


def write_voc(folder: Path) -> None:
    """Dark photos of 64x48 with a red box or a green disc, or both, in each; one box is degenerate."""
    rng = np.random.default_rng(0)
    sets = {"train": 12, "val": 6, "test": 6}
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, number in sets.items():
        for index in range(number):
            image = Image.fromarray(rng.integers(0, 60, (48, 64, 3), dtype=np.uint8))
            objects = [place(image, kind, rng) for kind in ("box", "disc") if index % 3 != ("box", "disc").index(kind)]
            if split == "train" and index == 0:
                objects.append(
                    "<object><name>box</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>0</xmax><ymax>0</ymax></bndbox></object>"
                )
            image.save(folder / "JPEGImages" / f"{split}{index}.jpg")
            (folder / "Annotations" / f"{split}{index}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
        lines = [f"{split}{index}" for index in range(number)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(lines))


def place(image: Image.Image, kind: str, rng: np.random.Generator) -> str:
    side = int(rng.integers(16, 24))
    left = int(rng.integers(0, 32 - side)) + (0 if kind == "box" else 32)
    top = int(rng.integers(0, 48 - side))
    corners = (left, top, left + side - 1, top + side - 1)
    if kind == "box":
        ImageDraw.Draw(image).rectangle(corners, fill=(230, 40, 40))
    else:
        ImageDraw.Draw(image).ellipse(corners, fill=(40, 230, 40))
    xmin, ymin, xmax, ymax = (corner + 1 for corner in corners)
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{kind}</name><bndbox>{box}</bndbox></object>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    write_voc(folder / "shapes" / "VOCdevkit" / "VOC2007")
    return folder


def run(
    root: Path, folder: Path, report: Any = lambda metrics, step: None, precision: str = "fp32", **settings: Any
) -> dict[str, float]:
    splits = load_splits(Data(source="digits", image_size=32), root=root, cache=root / "cache")
    torch.manual_seed(0)
    encoder = ENCODERS["resnet18"](32, width=4)
    stage = Stage(folder, report, 1, torch.device("cpu"), precision)
    return evaluate(encoder, splits, stage, **{"source": "voc:shapes", "on_error": "skip", **SHORT, **settings})


def test_it_reports_what_it_declares_and_the_test_split_only_at_the_end(root: Path, tmp_path: Path) -> None:
    reports: list[tuple[dict[str, float], int]] = []
    results = run(root, tmp_path, lambda *report: reports.append(report))
    assert tuple(results) == METRICS
    assert {f"detection/{name}" for name in METRICS} == set(load_evaluation("detection").metrics({}))
    assert [step for _, step in reports] == [1, 2, 3]
    by_epoch = [name.removeprefix("detection/") for name in load_evaluation("detection").epoch_metrics({"epochs": 3})]
    assert by_epoch == ["ap_val", "ap50_val", "ap75_val", "ap50_voc07_val"]
    assert all(set(by_epoch) <= metrics.keys() for metrics, _ in reports)
    assert all(0 <= metrics["ap50_val"] <= 100 and metrics["skipped_boxes"] == 1 for metrics, _ in reports)
    assert [("ap_test" in metrics) for metrics, _ in reports] == [False, False, True]
    last = reports[-1][0]
    assert {name: last[name] for name in METRICS} == results
    assert all(last[name] > 0 for name in ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"))


@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_stopped_and_resumed_it_gives_the_same_losses_and_metrics(root: Path, tmp_path: Path, neck: str) -> None:
    def losses(into: list[float], stop_at: int = 0) -> Any:
        def report(metrics: dict[str, float], step: int) -> None:
            into.append(metrics["loss"])
            if step == stop_at:
                raise Stop("asked to")

        return report

    unbroken: list[float] = []
    broken: list[float] = []
    expected = run(root, tmp_path / "unbroken", losses(unbroken), neck=neck)
    with pytest.raises(Stop):
        run(root, tmp_path / "broken", losses(broken, stop_at=2), neck=neck)
    torch.manual_seed(99)  # another process has drawn other numbers
    assert run(root, tmp_path / "broken", losses(broken), neck=neck) == expected
    assert broken == unbroken
    # finished, it only repeats what it knows
    assert run(root, tmp_path / "broken", losses(broken), neck=neck) == expected
    assert len(broken) == 3


def test_half_precision_runs(root: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    run(root, tmp_path, lambda metrics, step: seen.append(metrics["loss"]), "bf16", epochs=1)
    assert np.isfinite(seen).all()


def test_objects_are_found_after_a_little_training(root: Path, tmp_path: Path) -> None:
    results = run(root, tmp_path, epochs=40, batch_size=2, lr=0.03, schedule="cosine")
    assert results["ap50_val"] > 40
    assert results["ap50_test"] > 40


def test_the_degenerate_box_ends_a_trial_that_does_not_skip_it(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train0\.xml: object 2 \('box'\) has a box outside of its image .*; correct"):
        run(root, tmp_path, on_error="raise")


def test_a_driver_is_told_of_missing_and_damaged_data(root: Path) -> None:
    def check(source: str, on_error: str = "skip") -> None:
        settings = knobs.check(evaluate, {"source": source, "on_error": on_error}, "detection")
        load_evaluation("detection").check_data(settings, root)

    check("voc:shapes")
    with pytest.raises(DataError, match=r"train0\.xml: object 2 \('box'\) has a box outside of its image .*; correct"):
        check("voc:shapes", on_error="raise")
    with pytest.raises(DataError, match=r"evaluate.detection.source: 'voc:gone': .*gone is not a folder; give"):
        check("voc:gone")
    with pytest.raises(DataError, match=r"evaluate.detection.source: no VOC folder is in .*; expected"):
        check("voc:.")


def test_splits_of_no_source_and_other_encoders_are_refused(root: Path, tmp_path: Path) -> None:
    stage = Stage(tmp_path, lambda metrics, step: None, 1, torch.device("cpu"))
    splits = load_splits(Data(source="digits", image_size=32), root=root, cache=root / "cache")
    with pytest.raises(ValueError, match="detection: encoder is a ViTTiny; use resnet18, resnet34 or resnet50"):
        evaluate(ENCODERS["vit_tiny"](32), splits, stage, source="voc:shapes", on_error="skip")
    own = Splits(splits.train, splits.val, splits.test, 32)
    with pytest.raises(DataError, match="not opened from a source"):
        evaluate(ENCODERS["resnet18"](32, width=4), own, stage, source="voc:shapes")


def test_without_the_coco_tool_it_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchmetrics.detection.mean_ap._PYCOCOTOOLS_AVAILABLE", False)
    monkeypatch.setattr("torchmetrics.detection.mean_ap._FASTER_COCO_EVAL_AVAILABLE", False)
    with pytest.raises(ImportError, match=r"pip install 'ssl-sweep\[detection\]'"):
        run(root, tmp_path)
