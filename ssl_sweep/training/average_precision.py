"""Average precision of detections: COCO's by its own tool, and the 11-point one of VOC 2007."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ssl_sweep.data.voc_sets import Target

NAMES = ("ap", "ap50", "ap75", "ap50_voc07")
IGNORED_AREA = 2e10  # square pixels; COCO's tool ignores objects of 1e10 and more, and detections that match them
POINTS = 11  # recalls 0, 0.1, ..., 1
OVERLAP = 0.5

Detections = Sequence[dict[str, Tensor]]  # boxes (K, 4), labels and scores (K,) of each image


def average_precision(metric: Any, detections: Detections, truth: Sequence[Target]) -> dict[str, float]:
    """`NAMES` in percent; `metric` is `average_precision_metric`."""
    metric.reset()
    metric.update(
        [{name: x.cpu() for name, x in image.items()} for image in detections],
        [
            {**target, "area": torch.where(target["difficult"], IGNORED_AREA, 0.0)}  # 0: the area of the box itself
            for target in truth
        ],
    )
    scores = metric.compute()
    coco = {name: 100 * float(scores[key]) for name, key in (("ap", "map"), ("ap50", "map_50"), ("ap75", "map_75"))}
    return {**coco, "ap50_voc07": voc07_ap50(detections, truth)}


def average_precision_metric() -> Any:
    """torchmetrics' average precision, computed by COCO's own tool."""
    try:
        from torchmetrics.detection import MeanAveragePrecision

        return MeanAveragePrecision(
            # COCO's thresholds to the bit: by torchmetrics' fp32 ones, a recall of one half is below one half
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0, 1, 101).tolist(),
            backend="pycocotools",
        )
    except ImportError as error:
        remedy = "pip install 'ssl-sweep[detection]'"
        raise ImportError(
            f"detection: AP needs torchmetrics and pycocotools, and one is not installed; {remedy}"
        ) from error


def voc07_ap50(detections: Detections, truth: Sequence[Target]) -> float:
    """Mean over the classes of the 11-point interpolated average precision at an overlap of 0.5, in percent.

    Source: Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", section 4.2. Objects marked
    difficult are neither missed nor wrong; a second detection of an object is wrong. Classes without an object that
    counts are left out, and 0 stands for none at all.
    """
    classes = sorted({int(label) for image in truth for label in image["labels"][~image["difficult"]]})
    each = [_eleven_points(label, detections, truth) for label in classes]
    return 100 * sum(each) / len(each) if each else 0.0


def _eleven_points(label: int, detections: Detections, truth: Sequence[Target]) -> float:
    scores: list[Tensor] = []
    outcomes: list[Tensor] = []  # 1: right, 0: wrong, -1: of a difficult object
    objects = 0
    for found, image in zip(detections, truth, strict=True):
        own, wanted = found["labels"].cpu() == label, image["labels"] == label
        difficult = image["difficult"][wanted]
        objects += int((~difficult).sum())
        best_first = found["scores"].cpu()[own].argsort(descending=True, stable=True)
        scores.append(found["scores"].cpu()[own][best_first])
        outcomes.append(_outcomes(found["boxes"].cpu()[own][best_first], image["boxes"][wanted], difficult))
    order = torch.cat(scores).argsort(descending=True, stable=True)
    judged = torch.cat(outcomes)[order]
    right = (judged[judged >= 0] == 1).cumsum(dim=0)
    precision = right / torch.arange(1, len(right) + 1)
    # by whole numbers: a recall of 3 / 10 is not below 0.3
    reached = [precision[right * (POINTS - 1) >= point * objects] for point in range(POINTS)]
    return sum(float(each.max()) for each in reached if len(each)) / POINTS


def _outcomes(boxes: Tensor, objects: Tensor, difficult: Tensor) -> Tensor:
    """What each box (K, 4) of an image, the surest first, is to the objects (N, 4) of its class: (K,) int64."""
    outcomes = torch.zeros(len(boxes), dtype=torch.int64)
    if not len(objects):
        return outcomes
    overlaps, nearest = box_iou(boxes, objects).max(dim=1)
    free = torch.ones(len(objects), dtype=torch.bool)
    for row, (overlap, index) in enumerate(zip(overlaps.tolist(), nearest.tolist(), strict=True)):
        if overlap < OVERLAP:
            continue
        outcomes[row] = -1 if difficult[index] else int(free[index])
        free[index] = False
    return outcomes
