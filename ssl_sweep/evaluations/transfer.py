"""Transfer: the pretrained encoder probed or fine-tuned on other data sets, each with its own classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Splits
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.classifier import Classifier, TrainingCrop, measure, train
from ssl_sweep.training.loop import Epoch, Stage
from ssl_sweep.training.neighbours import knn_top1
from ssl_sweep.training.optimizers import BatchSize, Momentum, Optimizer, Recipe, Schedule, WeightDecay
from ssl_sweep.training.parts import run_parts
from ssl_sweep.training.probe import probe

SPLITS = ("val", "test")
NEEDS_LABELS = False  # its sources have their own
NEIGHBOURS, TEMPERATURE = 20, 0.1  # of the knn protocol, as the k-NN evaluation's defaults
DEFAULT_LR = {"linear": (0.01, 0.1, 1.0, 10.0), "finetune": (0.01,)}

Rate = Annotated[float, Field(gt=0)]
Protocol = Literal["linear", "finetune", "knn"]

CHECK = {"knobs": {"epochs": 12, "batch_size": 32, "sources": ["digits"], "lr": [0.5, 1.0]}}  # suits 160 images


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Top-1 on each source, `top1_flower17_val`, and their means."""
    return tuple(
        f"top1{at}_{split}" for at in ("", *(f"_{slug}" for slug in slugs(settings["sources"]))) for split in SPLITS
    )


def epoch_metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """None: the mean over the sources is known at the end, and each source's epochs follow another's."""
    return ()


def data_sources(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The data sets that it opens."""
    return tuple(settings["sources"])


def planned_epochs(settings: Mapping[str, Any]) -> int:
    """Epochs of all sources together, each of one pass over its source."""
    epochs: int = settings["epochs"]
    return 0 if settings["protocol"] == "knn" else epochs * len(settings["sources"])


def evaluate(
    encoder: Encoder,
    splits: Splits,
    stage: Stage,
    *,
    sources: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(min_length=1, description="data sets, each written as `data.source`; split and sized like the sweep's"),
    ],
    protocol: Annotated[
        Protocol,
        Field(description="linear: a probe of frozen features; finetune: the whole encoder; knn: 20 neighbours vote"),
    ] = "linear",
    epochs: Annotated[int, Field(ge=1, description="epochs of the probe, or of fine-tuning")] = 20,
    batch_size: BatchSize = 256,
    optimizer: Optimizer = "sgd",
    lr: Annotated[
        Rate | Annotated[tuple[Rate, ...], Field(min_length=1)] | None,
        Field(
            description="peak learning rate; each one of a list is tried, and validation chooses by source; "
            "null: 0.01 to fine-tune, 0.01, 0.1, 1 and 10 to probe"
        ),
    ] = None,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    schedule: Schedule = "cosine",
    augment: TrainingCrop = "none",
) -> dict[str, float]:
    """Top-1 in percent on other data sets, last epoch, and the mean over them (LeOCLR, section 4: fine-tuned).

    A probe tries all learning rates in one training; fine-tuning takes one training for each, from the pretrained
    encoder. A source is opened with all its classes and images.

    Raises:
        DataError: a source cannot be opened; the message names it.
    """
    rates = (lr,) if isinstance(lr, int | float) else tuple(lr or DEFAULT_LR.get(protocol, ()))
    recipes = [
        Recipe(
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=rate,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
        )
        for rate in rates
    ]
    parts = _parts(sources, protocol, recipes, epochs)
    measured = run_parts(list(parts), lambda name, part: parts[name].run(encoder, splits, augment, part), stage)
    results = _best_by_source(parts, measured)
    stage.report(results, sum(part.epochs for part in parts.values()) + 1)
    return results


@dataclass(frozen=True)
class _Part:
    """One source, and the recipes that are tried on it in one training.

    Args:
        slug: the source's short name.
        source: as it is written in the spec.
        protocol: the evaluation's.
        recipes: several for a probe, one for fine-tuning; not used by the neighbours' vote.
        epochs: of the training.
        epochs_before: epochs of the parts that run first; reports count on from them.
    """

    slug: str
    source: str
    protocol: Protocol
    recipes: tuple[Recipe, ...]
    epochs: int
    epochs_before: int

    def run(self, encoder: Encoder, splits: Splits, augment: TrainingCrop, stage: Stage) -> dict[str, float]:
        """Open the source, measure the encoder on it and return top-1 by the evaluation's protocol."""

        def report(metrics: dict[str, float], epoch: int) -> None:
            stage.report(_named(metrics, self.slug), self.epochs_before + epoch)

        own_splits = _open(splits, self.source)
        if self.protocol == "knn":
            return _vote(encoder, own_splits, stage)
        reporting = replace(stage, report=report)
        if self.protocol == "linear":
            return probe(encoder, own_splits, self.recipes, reporting, augment)
        (recipe,) = self.recipes
        return _finetune(encoder, own_splits, recipe, reporting, augment)


def _parts(sources: Iterable[str], protocol: Protocol, recipes: Sequence[Recipe], epochs: int) -> dict[str, _Part]:
    """The parts by name: one a source, or one a source and recipe to fine-tune."""
    tries = [(recipe,) for recipe in recipes] if protocol == "finetune" else [tuple(recipes)]
    steps = 0 if protocol == "knn" else epochs
    parts: dict[str, _Part] = {}
    for slug, source in slugs(sources).items():
        for number, tried in enumerate(tries):
            parts[f"{slug} {number}"] = _Part(slug, source, protocol, tried, steps, epochs_before=len(parts) * steps)
    return parts


def slugs(sources: Iterable[str]) -> dict[str, str]:
    """The sources by short names: the last part of a folder or a set's name, numbered where two are the same."""
    named: dict[str, str] = {}
    for source in sources:
        kind, _, where = source.partition(":")
        word = re.sub(r"[^A-Za-z0-9]+", "_", Path(where).name).strip("_").lower() or kind
        name = next(name for number in count(1) if (name := word if number == 1 else f"{word}_{number}") not in named)
        named[name] = source
    return named


def _open(splits: Splits, source: str) -> Splits:
    try:
        opened = splits.other(source)
    except DataError as error:
        raise DataError(f"evaluate.transfer.sources: {error}") from None
    try:
        return opened.labelled()
    except DataError as error:
        raise DataError(f"evaluate.transfer.sources: {source!r}: {error}; name a set with labels") from None


def _named(metrics: Mapping[str, float], slug: str) -> dict[str, float]:
    """The metrics of an epoch, with the source in their names."""
    scores = {f"top1_{slug}_{split}": metrics[f"top1_{split}"] for split in SPLITS}
    return {f"loss_{slug}": metrics["loss"], "images_per_second": metrics["images_per_second"], **scores}


def _best_by_source(parts: Mapping[str, _Part], measured: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """Each source's top-1, of the part that is best on validation, and the means over the sources."""
    results: dict[str, float] = {}
    for slug in dict.fromkeys(part.slug for part in parts.values()):
        tried = [measured[name] for name, part in parts.items() if part.slug == slug]
        best = max(tried, key=lambda scores: scores["top1_val"])
        results |= {f"top1_{slug}_{split}": best[f"top1_{split}"] for split in SPLITS}
    means = {f"top1_{split}": fmean(results[name] for name in results if name.endswith(split)) for split in SPLITS}
    return results | means


def _vote(encoder: Encoder, splits: Splits, stage: Stage) -> dict[str, float]:
    top1_by_split = knn_top1(encoder, splits, stage, ks=(NEIGHBOURS,), temperature=TEMPERATURE)
    return {f"top1_{split}": values[0] for split, values in top1_by_split.items()}


def _finetune(
    encoder: Encoder, splits: Splits, recipe: Recipe, stage: Stage, augment: TrainingCrop
) -> dict[str, float]:
    classifier = Classifier(deepcopy(encoder), encoder.feature_dim, splits.num_classes)

    def score(epoch: Epoch) -> None:
        stage.report(epoch.metrics | measure(classifier, splits, stage), epoch.number)

    train(classifier, splits.train, splits.image_size, recipe, stage, augment, score)
    return classifier.results()
