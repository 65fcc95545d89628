"""Linear probe: a linear classifier on frozen features."""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.classifier import METRICS, Classifier
from ssl_sweep.data.splits import Splits
from ssl_sweep.features import EVAL_BATCH, extract
from ssl_sweep.optimizers import Recipe
from ssl_sweep.training import Epoch, Stage, fit

__all__ = ["METRICS", "evaluate"]


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    epochs: Annotated[int, Field(ge=1, description="epochs of the head")] = 5,
    batch_size: Annotated[int, Field(ge=2, description="features a step")] = 256,
    optimizer: Annotated[Literal["sgd", "adamw", "lars"], Field(description="optimiser")] = "sgd",
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 0.01,
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum")] = 0.9,
    weight_decay: Annotated[float, Field(ge=0, description="weight decay")] = 1e-4,
    schedule: Annotated[Literal["cosine", "constant", "step"], Field(description="learning rate schedule")] = "cosine",
) -> dict[str, float]:
    """Top-1 in percent of a linear head on frozen features, without augmentation (Li et al. 2023, section 4).

    The encoder is fixed, so that each image goes through it once and the head is trained on the stored features.
    `top1_best_*` are the best epoch of each split, the last epoch is reported beside them.
    """
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
    )
    stored = {
        name: extract(encoder, pack, splits.image_size, stage)
        for name, pack in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }
    features, labels = stored.pop("train")
    probe = Classifier(nn.Identity(), features.shape[1], splits.num_classes).to(stage.device)

    def loss(indices: Tensor, _rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = indices.to(stage.device)
        return probe.loss(features[chosen], labels[chosen]), {}

    def score(epoch: Epoch) -> None:
        scores = probe.score(*(_chunks(*split) for split in stored.values()))
        stage.report(epoch.metrics | scores, epoch.number)

    fit(probe, loss, len(features), recipe, stage, score)
    return probe.results()


def _chunks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(features, EVAL_BATCH), torch.split(labels, EVAL_BATCH), strict=True)
