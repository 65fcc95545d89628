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
from ssl_sweep.training.probe import CHOSEN, DECAYS, EPOCHS, RATES, Standardize, chosen_of, probe
from ssl_sweep.training.refit import Refit, fit_and_refit

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]

CHECK = {"knobs": {"epochs": 12, "batch_size": 32, "lr": 1.0}}  # suits 160 images


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The four of a classifier, and the best learning rate and weight decay where several are tried."""
    return METRICS + tuple(f"{name}_best" for name in chosen_on_validation(settings))


def chosen_on_validation(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The knobs of which several values are tried."""
    return tuple(name for name in CHOSEN if len(set(_several(settings[name]))) > 1)


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    epochs: Annotated[int, Field(ge=1, description="epochs of the heads")] = EPOCHS,
    batch_size: BatchSize = 256,
    optimizer: Optimizer = "sgd",
    lr: Annotated[
        Rate | Annotated[tuple[Rate, ...], Field(min_length=1)],
        Field(description="peak learning rate; each one of a list is tried, in one training"),
    ] = RATES,
    momentum: Momentum = 0.9,
    weight_decay: Annotated[
        Decay | Annotated[tuple[Decay, ...], Field(min_length=1)],
        Field(description="weight decay; each one of a list is tried with each lr, in one training"),
    ] = DECAYS,
    schedule: Schedule = "cosine",
    augment: TrainingCrop = "none",
    standardize: Standardize = True,
    refit: Refit = False,
) -> dict[str, float]:
    """Top-1 in percent of a linear head on frozen features, of several heads the one that is best on validation.

    The default converges: it scores what logistic regression does on the same features, whatever their scale. Two
    published protocols do not standardise. Li et al. 2023 (section 4): epochs 5, lr 0.01, weight_decay 1e-4. MoCo and
    LeOCLR (He et al. 2020, section 4.1): epochs 100, lr 30, weight_decay 0, schedule step (a tenth from epochs 60 and
    80 on), augment crop_flip. Tests use centre crops. `top1_*` are the last epoch's, `top1_best_*` those of the epoch
    that is best on validation.
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

    def fitted(used: Splits, chosen: Mapping[str, float] | None, part: Stage) -> dict[str, float]:
        tried = recipes if chosen is None else [chosen_of(recipes, chosen)]
        return probe(encoder, used, tried, part, augment, standardize=standardize)

    return fit_and_refit(fitted, splits, stage, refit=refit, epochs=epochs)


def _several(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return (value,) if isinstance(value, int | float) else tuple(value)
