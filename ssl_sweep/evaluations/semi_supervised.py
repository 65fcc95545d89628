"""Semi-supervised: the pretrained encoder fine-tuned with a few of the labels, anew for each fraction of them."""

from collections.abc import Mapping
from copy import deepcopy
from itertools import accumulate
from math import ceil
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field

from ssl_sweep.data.splits import Splits
from ssl_sweep.data.stratify import nested_subset
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.classifier import Classifier, TrainingCrop, measure, train
from ssl_sweep.training.loop import Epoch, Stage
from ssl_sweep.training.optimizers import BatchSize, Momentum, Optimizer, Recipe, Schedule, WeightDecay
from ssl_sweep.training.parts import run_parts

Percent = Literal[1, 2, 5, 10, 20, 50, 100]

# LeOCLR gives 60 epochs at 1 % and 30 at 10 % (section 4); the others are ours: few images are seen more often
EPOCHS: dict[Percent, int] = {1: 60, 2: 50, 5: 40, 10: 30, 20: 30, 50: 30, 100: 30}
SPLITS = ("val", "test")


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Top-1 at each fraction, `top1_10pct_val`, and their means."""
    return tuple(f"top1{at}_{split}" for at in ("", *map(_at, settings["fractions"])) for split in SPLITS)


def planned_epochs(settings: Mapping[str, Any]) -> int:
    """Epochs of all fractions together, in epochs of the whole training set."""
    each: int | None = settings["epochs_per_fraction"]
    fractions: tuple[Percent, ...] = settings["fractions"]
    return ceil(sum((each or EPOCHS[percent]) * percent / 100 for percent in fractions))


def evaluate(
    encoder: Encoder,
    splits: Splits,
    stage: Stage,
    *,
    fractions: Annotated[
        tuple[Percent, ...], Field(min_length=1, description="percent of the training labels; each is fine-tuned anew")
    ] = (1, 2, 5, 10, 20, 50, 100),
    subset_seed: Annotated[
        int, Field(ge=0, lt=2**63, description="which images: the same for all seeds of a sweep, 1 % among the 2 %")
    ] = 0,
    epochs_per_fraction: Annotated[
        int | None, Field(ge=1, description="null: 60 at 1 %, 50 at 2 %, 40 at 5 %, 30 from 10 % on")
    ] = None,
    batch_size: BatchSize = 256,
    optimizer: Optimizer = "sgd",
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 0.05,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 0.0,
    schedule: Schedule = "cosine",
    augment: TrainingCrop = "crop_flip",
) -> dict[str, float]:
    """Top-1 in percent, last epoch, by fraction of the labels (LeOCLR, section 4 and Figure 5), and the mean over them.

    Each class gives its share of a subset, and one image at the least. The paper says 60 epochs at 1 % and 30 at 10 %;
    the other epochs are ours, and the rest follows SimCLR (Chen et al. 2020, arXiv:2002.05709, B.5): lr 0.05 a batch of
    256, no weight decay, random crop and flip.
    """
    percents = {_at(percent): percent for percent in fractions}
    recipes = {
        at: Recipe(
            epochs=epochs_per_fraction or EPOCHS[percent],
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
        )
        for at, percent in percents.items()
    }
    ends = dict(zip(recipes, accumulate(recipe.epochs for recipe in recipes.values()), strict=True))

    def work(at: str, part: Stage) -> dict[str, float]:
        recipe = recipes[at]
        rows = nested_subset(splits.train.labels, percents[at] / 100, subset_seed)
        classifier = Classifier(deepcopy(encoder), encoder.feature_dim, splits.num_classes)

        def after_epoch(epoch: Epoch) -> None:
            shown = {f"loss{at}": epoch.metrics["loss"], "images_per_second": epoch.metrics["images_per_second"]}
            if epoch.number == recipe.epochs:  # not before: these splits can be many times larger than the subset
                shown |= _named(measure(classifier, splits, stage), at)
            stage.report(shown, ends[at] - recipe.epochs + epoch.number)

        train(classifier, splits.train.subset(rows), splits.image_size, recipe, part, augment, after_epoch)
        return _named(classifier.results(), at)

    measured = run_parts(list(recipes), work, stage)
    results = {name: value for part in measured.values() for name, value in part.items()}
    for split in SPLITS:
        results[f"top1_{split}"] = fmean(results[f"top1{at}_{split}"] for at in recipes)
    stage.report(results, max(ends.values()) + 1)
    return results


def _at(percent: int) -> str:
    return f"_{percent}pct"


def _named(scores: Mapping[str, float], at: str) -> dict[str, float]:
    return {f"top1{at}_{split}": scores[f"top1_{split}"] for split in SPLITS}
