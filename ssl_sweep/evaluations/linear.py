"""Linear probe: a linear classifier on frozen features."""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from ssl_sweep.data.splits import Splits
from ssl_sweep.training.classifier import METRICS, TrainingCrop
from ssl_sweep.training.loop import Stage
from ssl_sweep.training.optimizers import BatchSize, Momentum, Optimizer, Recipe, Schedule
from ssl_sweep.training.probe import CHOSEN, probe

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]

CHECK = {"knobs": {"epochs": 12, "batch_size": 32, "lr": 1.0}}  # suits 160 images


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The four of a classifier, and the best learning rate and weight decay where several are tried."""
    return METRICS + tuple(f"{name}_best" for name in CHOSEN if len(set(_several(settings[name]))) > 1)


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    epochs: Annotated[int, Field(ge=1, description="epochs of the heads")] = 5,
    batch_size: BatchSize = 256,
    optimizer: Optimizer = "sgd",
    lr: Annotated[
        Rate | Annotated[tuple[Rate, ...], Field(min_length=1)],
        Field(description="peak learning rate; each one of a list is tried, in one training"),
    ] = 0.01,
    momentum: Momentum = 0.9,
    weight_decay: Annotated[
        Decay | Annotated[tuple[Decay, ...], Field(min_length=1)],
        Field(description="weight decay; each one of a list is tried with each lr, in one training"),
    ] = 1e-4,
    schedule: Schedule = "cosine",
    augment: TrainingCrop = "none",
) -> dict[str, float]:
    """Top-1 in percent of a linear head on frozen features, of several heads the one that is best on validation.

    The default is the protocol of Li et al. 2023 (section 4): 5 epochs without augmentation. That of MoCo and LeOCLR
    (He et al. 2020, section 4.1): epochs 100, lr 30, weight_decay 0, schedule step (a tenth from epochs 60 and 80 on),
    augment crop_flip. Tests use centre crops. `top1_*` are the last epoch's, `top1_best_*` those of the epoch that is
    best on validation.
    """
    recipes = [
        Recipe(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=rate,
            momentum=momentum,
            weight_decay=decay,
            schedule=schedule,
        )
        for rate, decay in product(_several(lr), _several(weight_decay))
    ]
    return probe(encoder, splits, recipes, stage, augment)


def _several(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return (value,) if isinstance(value, int | float) else tuple(value)
