"""Transfer: the pretrained encoder probed or fine-tuned on other data sets, each with its own classes."""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
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
NEIGHBOURS, TEMPERATURE = 20, 0.1  # of the knn protocol, as the k-NN evaluation's defaults
DEFAULT_LR = {"linear": (0.01, 0.1, 1.0, 10.0), "finetune": (0.01,)}

Rate = Annotated[float, Field(gt=0)]


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Top-1 on each source, `top1_flower17_val`, and their means."""
    return tuple(
        f"top1{at}_{split}" for at in ("", *(f"_{slug}" for slug in slugs(settings["sources"]))) for split in SPLITS
    )


def data_sources(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The data that this evaluation opens, for a driver to refuse before anything is pretrained."""
    return tuple(settings["sources"])


def planned_epochs(settings: Mapping[str, Any]) -> int:
    """Epochs over all sources together, each of that source's images."""
    epochs: int = settings["epochs"]
    return 0 if settings["protocol"] == "knn" else epochs * len(settings["sources"])


def evaluate(
    encoder: Encoder,
    splits: Splits,
    stage: Stage,
    *,
    sources: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(min_length=1, description="data sets, each written as `data.source`, split and sized like the sweep's"),
    ],
    protocol: Annotated[
        Literal["linear", "finetune", "knn"],
        Field(description="a probe of frozen features, training of the whole encoder, or 20 neighbours that vote"),
    ] = "linear",
    epochs: Annotated[int, Field(ge=1, description="epochs of the probe, or of fine-tuning")] = 20,
    batch_size: BatchSize = 256,
    optimizer: Optimizer = "sgd",
    lr: Annotated[
        Rate | Annotated[tuple[Rate, ...], Field(min_length=1)] | None,
        Field(
            description="peak learning rate; of a list every one is tried, and validation chooses, by source; "
            "null: 0.01 to fine-tune, 0.01, 0.1, 1 and 10 to probe"
        ),
    ] = None,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    schedule: Schedule = "cosine",
    augment: TrainingCrop = "none",
) -> dict[str, float]:
    """Top-1 in percent on other data sets, last epoch, and the mean over them (LeOCLR, section 4: fine-tuned).

    A probe tries its learning rates in one training; fine-tuning starts from the pretrained encoder with each, which
    takes as many trainings. A source is opened with all its classes and images.

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
    named = slugs(sources)
    tries = len(recipes) if protocol == "finetune" else 1
    parts = {f"{slug} {number}": slug for slug in named for number in range(tries)}
    steps = 0 if protocol == "knn" else epochs

    def work(name: str, part: Stage) -> dict[str, float]:
        number, slug = list(parts).index(name), parts[name]

        def report(scores: dict[str, float], epoch: int) -> None:
            stage.report(_named(scores, slug), number * steps + epoch)

        other, told = _open(splits, named[slug]), replace(part, report=report)
        if protocol == "knn":
            return _vote(encoder, other, part)
        if protocol == "linear":
            return probe(encoder, other, recipes, told, augment)
        return _finetune(encoder, other, recipes[number % len(recipes)], told, augment)

    results = _chosen(parts, run_parts(list(parts), work, stage))
    stage.report(results, steps * len(parts) + 1)
    return results


def slugs(sources: Iterable[str]) -> dict[str, str]:
    """Each source by a short name: the last part of its folder or its set's name, numbered where two are alike."""
    found: dict[str, str] = {}
    for source in sources:
        kind, _, where = source.partition(":")
        word = re.sub(r"[^A-Za-z0-9]+", "_", Path(where).name).strip("_").lower() or kind
        name = next(name for number in count(1) if (name := word if number == 1 else f"{word}_{number}") not in found)
        found[name] = source
    return found


def _open(splits: Splits, source: str) -> Splits:
    try:
        return splits.other(source)
    except DataError as error:
        raise DataError(f"evaluate.transfer.sources: {error}") from None


def _named(metrics: Mapping[str, float], slug: str) -> dict[str, float]:
    """One source's metrics of an epoch, by names of their own."""
    scores = {f"top1_{slug}_{split}": metrics[f"top1_{split}"] for split in SPLITS}
    return {f"loss_{slug}": metrics["loss"], "images_per_second": metrics["images_per_second"], **scores}


def _chosen(parts: Mapping[str, str], found: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """Each source's top-1, of its part that is best on validation, and the means; `parts`: the source of each."""
    results: dict[str, float] = {}
    for slug in dict.fromkeys(parts.values()):
        tried = [found[name] for name, owner in parts.items() if owner == slug]
        best = max(tried, key=lambda scores: scores["top1_val"])
        results |= {f"top1_{slug}_{split}": best[f"top1_{split}"] for split in SPLITS}
    means = {f"top1_{split}": fmean(results[name] for name in results if name.endswith(split)) for split in SPLITS}
    return results | means


def _vote(encoder: Encoder, splits: Splits, stage: Stage) -> dict[str, float]:
    voted = knn_top1(encoder, splits, stage, ks=(NEIGHBOURS,), temperature=TEMPERATURE)
    return {f"top1_{split}": shares[0] for split, shares in voted.items()}


def _finetune(
    encoder: Encoder, splits: Splits, recipe: Recipe, stage: Stage, augment: TrainingCrop
) -> dict[str, float]:
    classifier = Classifier(deepcopy(encoder), encoder.feature_dim, splits.num_classes)

    def score(epoch: Epoch) -> None:
        stage.report(epoch.metrics | measure(classifier, splits, stage), epoch.number)

    train(classifier, splits.train, splits.image_size, recipe, stage, augment, score)
    return classifier.results()
