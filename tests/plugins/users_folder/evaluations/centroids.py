"""Classification by the nearest class mean of frozen features."""

from typing import Annotated

import torch
from pydantic import Field

from ssl_sweep.training.features import extract

Power = Annotated[float, Field(gt=0, description="of the distance")]
METRICS = ("top1_val", "top1_test")


def evaluate(encoder, splits, stage, *, power: Power = 2.0) -> dict[str, float]:
    features, labels = extract(encoder, splits.train, splits.image_size, stage)
    means = torch.stack([features[labels == label].mean(dim=0) for label in range(splits.num_classes)])
    results = {}
    for split, pack in (("val", splits.val), ("test", splits.test)):
        features, labels = extract(encoder, pack, splits.image_size, stage)
        nearest = torch.cdist(features, means, p=power).argmin(dim=1)
        results[f"top1_{split}"] = 100 * float((nearest == labels).double().mean())
    stage.report(results, 1)
    return results
