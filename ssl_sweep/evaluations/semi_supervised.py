"""Semi-supervised: the pretrained encoder fine-tuned on a fraction of the labels, once for each fraction."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Source
from ssl_sweep.data.label_lists import PLACE, listed_rows, open_lists
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.stratify import nested_subset
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.accuracy import SCORES
from ssl_sweep.training.classifier import SPLITS, Classifier, TrainingCrop, measure, train
from ssl_sweep.training.loop import Epoch, Stage
from ssl_sweep.training.optimizers import BatchSize, Momentum, Optimizer, Recipe, Schedule, WeightDecay
from ssl_sweep.training.parts import run_parts
from ssl_sweep.training.refit import Refit, fit_and_refit

Percent = Literal[1, 2, 5, 10, 20, 50, 100]

# LeOCLR gives 60 epochs at 1 % and 30 at 10 % (section 4); the others are ours: the fewer images, the more epochs
EPOCHS: dict[Percent, int] = {1: 60, 2: 50, 5: 40, 10: 30, 20: 30, 50: 30, 100: 30}
CHECK = {"knobs": {"fractions": [5, 20], "epochs_per_fraction": 15, "batch_size": 8, "lr": 0.1}}  # suits 160 images


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The scores at each fraction, `top1_10pct_val`, and their means."""
    suffixes = ("", *map(_suffix, settings["fractions"]))
    return tuple(f"{score}{suffix}_{split}" for score in SCORES for suffix in suffixes for split in SPLITS)


def planned_epochs(settings: Mapping[str, Any]) -> int:
    """Epochs of all fractions together, counted in passes over the whole training set."""
    epochs: int | None = settings["epochs_per_fraction"]
    fractions: tuple[Percent, ...] = settings["fractions"]
    once = sum((epochs or EPOCHS[percent]) * percent / 100 for percent in fractions)
    return ceil(2 * once if settings["refit"] else once)


def check_data(settings: Mapping[str, Any], root: Path) -> Source | None:
    """The lists of images. Raises DataError for one that is missing, of a fraction that is not trained, or a second."""
    percents = [int(written.partition(":")[0]) for written in settings["label_lists"]]
    for percent in percents:
        if percent not in settings["fractions"] or percents.count(percent) > 1:
            why = "not one of `fractions`" if percents.count(percent) == 1 else "named twice"
            raise DataError(f"{PLACE}: {percent} % is {why}; correct one of the two")
    return open_lists(settings["label_lists"], root)


def evaluate(
    encoder: Encoder,
    splits: Splits,
    stage: Stage,
    *,
    fractions: Annotated[
        tuple[Percent, ...],
        Field(min_length=1, description="percent of the training labels; each is a training of its own"),
    ] = (1, 2, 5, 10, 20, 50, 100),
    subset_seed: Annotated[
        Annotated[int, Field(ge=0, lt=2**63)] | Literal["per_seed"],
        Field(
            description="selects the images; per_seed: each trial's seed does, so that ± covers the selection; a "
            "number: alike for all trials; the 1 % are among the 2 %"
        ),
    ] = "per_seed",
    label_lists: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(1|2|5|10|20|50|100):\S+$")], ...],
        Field(
            description="PERCENT:FILE, ...: the images of a fraction, named in a text file below the folder of the "
            "data, one a line, as in the official 1 % and 10 % of ImageNet; other fractions are drawn"
        ),
    ] = (),
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
    refit: Refit = False,
) -> dict[str, float]:
    """Top-1 in percent, last epoch, by fraction of the labels (LeOCLR, section 4 and Figure 5), and the mean over them.

    A subset that is drawn has the same share of each class, and at least one image of it. Percent are of all training
    labels, as in published figures, those of validation images included; but the images are not, unless `refit` adds
    these, so that 100 are all that are left to train on. The paper gives 60 epochs at 1 % and 30 at 10 %; the other
    epochs are ours. The rest follows SimCLR (Chen et al. 2020, arXiv:2002.05709, B.5): lr 0.05 at batch size 256, no
    weight decay, random crop and flip.
    """
    recipe = partial(
        Recipe,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
    )
    runs: dict[str, _FractionRun] = {}
    epochs = 0
    for percent in dict.fromkeys(fractions):
        own = recipe(epochs=epochs_per_fraction or EPOCHS[percent])
        subset = _Subset(percent, stage.seed if subset_seed == "per_seed" else subset_seed, label_lists)
        runs[_suffix(percent)] = _FractionRun(percent, subset, own, augment, refit, epochs_before=epochs)
        epochs += 2 * own.num_epochs + 1 if refit else own.num_epochs

    measured = run_parts(list(runs), lambda suffix, part: runs[suffix].run(encoder, splits, part), stage)
    results = {name: value for part in measured.values() for name, value in part.items()}
    for score, split in product(SCORES, splits.measured):
        results[f"{score}_{split}"] = fmean(results[f"{score}{suffix}_{split}"] for suffix in runs)
    stage.report(results, epochs + 1)
    return results


@dataclass(frozen=True)
class _Subset:
    """The training images of a fraction: those of its list, or as many as it says, drawn by seed."""

    percent: Percent
    seed: int
    label_lists: tuple[str, ...]

    def rows(self, splits: Splits) -> Tensor:
        """Ascending rows (N,) of the training split."""
        own = [written for written in self.label_lists if written.partition(":")[0] == str(self.percent)]
        if own:
            return listed_rows(splits, own[0], self.label_lists)
        fraction = min(1.0, self.percent / 100 * splits.num_trainable / len(splits.train))
        return nested_subset(splits.train.labels, fraction, self.seed)


@dataclass(frozen=True)
class _FractionRun:
    """Fine-tuning with one fraction of the labels.

    Args:
        percent: of the labels.
        subset: which images have them.
        recipe: the training.
        augment: the training images' crop.
        refit: train again with the validation images' labels, for the test scores.
        epochs_before: epochs of the fractions that run first; reports count on from them.
    """

    percent: Percent
    subset: _Subset
    recipe: Recipe
    augment: TrainingCrop
    refit: bool
    epochs_before: int

    def run(self, encoder: Encoder, splits: Splits, stage: Stage) -> dict[str, float]:
        """Train a copy of the encoder and return the scores by the names of this fraction."""

        def report(metrics: dict[str, float], epoch: int) -> None:
            stage.report(metrics, self.epochs_before + epoch)

        def fitted(used: Splits, _chosen: Mapping[str, float] | None, part: Stage) -> dict[str, float]:
            return self._fit(encoder, used, part)

        numbered = replace(stage, report=report)
        return fit_and_refit(fitted, splits, numbered, refit=self.refit, epochs=self.recipe.num_epochs)

    def _fit(self, encoder: Encoder, splits: Splits, stage: Stage) -> dict[str, float]:
        rows = self.subset.rows(splits)
        classifier = Classifier(deepcopy(encoder), encoder.feature_dim, splits.num_classes)

        def after_epoch(epoch: Epoch) -> None:
            loss, speed = epoch.metrics["loss"], epoch.metrics["images_per_second"]
            metrics = {f"loss{_suffix(self.percent)}": loss, "images_per_second": speed}
            # not before: validation and test can be far larger than the subset
            if epoch.number == self.recipe.num_epochs:
                metrics |= self._named(measure(classifier, splits, stage))
            stage.report(metrics, epoch.number)

        train(classifier, splits.train.subset(rows), splits.image_size, self.recipe, stage, self.augment, after_epoch)
        return self._named(classifier.results())

    def _named(self, scores: Mapping[str, float]) -> dict[str, float]:
        names = {f"{score}{_suffix(self.percent)}_{split}": f"{score}_{split}" for score in SCORES for split in SPLITS}
        return {named: scores[name] for named, name in names.items() if name in scores}


def _suffix(percent: int) -> str:
    return f"_{percent}pct"
