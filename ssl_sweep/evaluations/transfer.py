"""Transfer: the pretrained encoder probed or fine-tuned on other data sets, each with its own classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Splits
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.accuracy import SCORES
from ssl_sweep.training.classifier import SPLITS, Classifier, TrainingCrop, measure, train
from ssl_sweep.training.loop import Epoch, Stage
from ssl_sweep.training.neighbours import knn_scores
from ssl_sweep.training.optimizers import BatchSize, Momentum, Optimizer, Recipe, Schedule, WeightDecay
from ssl_sweep.training.parts import run_parts
from ssl_sweep.training.probe import RATES, Standardize, chosen_of, probe
from ssl_sweep.training.refit import Refit, without_test

NEEDS_LABELS = False  # its sources have their own
NEIGHBOURS, TEMPERATURE = 20, 0.1  # of the knn protocol, as the k-NN evaluation's defaults
DEFAULT_LR = {"linear": RATES, "finetune": (0.01,)}
UNSCALED_LR = (0.01, 0.1, 1.0, 10.0)  # of a probe of features as they are, whatever their scale

Rate = Annotated[float, Field(gt=0)]
Protocol = Literal["linear", "finetune", "knn"]

CHECK = {"knobs": {"epochs": 12, "batch_size": 32, "sources": ["digits"], "lr": [0.5, 1.0]}}  # suits 160 images


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The scores on each source, `top1_flower17_val`, and their means."""
    places = ("", *(f"_{slug}" for slug in slugs(settings["sources"])))
    return tuple(f"{score}{at}_{split}" for score in SCORES for at in places for split in SPLITS)


def chosen_on_validation(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The learning rate, if several are tried."""
    return (
        ("lr",)
        if len(set(_rates(settings["lr"], settings["protocol"], standardize=settings["standardize"]))) > 1
        else ()
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
    return 0 if settings["protocol"] == "knn" else (2 if settings["refit"] else 1) * epochs * len(settings["sources"])


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
            "null: 0.01 to fine-tune, 0.1, 0.3 and 1 to probe, or 0.01, 0.1, 1 and 10 without `standardize`"
        ),
    ] = None,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    schedule: Schedule = "cosine",
    augment: TrainingCrop = "none",
    standardize: Standardize = True,
    refit: Refit = False,
) -> dict[str, float]:
    """Top-1 in percent on other data sets, last epoch, and the mean over them (LeOCLR, section 4: fine-tuned).

    A probe tries all learning rates in one training; fine-tuning takes one training for each, from the pretrained
    encoder. A source is opened with all its classes and images.

    Raises:
        DataError: a source cannot be opened; the message names it.
    """
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
        for rate in _rates(lr, protocol, standardize=standardize)
    ]
    own = _Part("", "", protocol, tuple(recipes), augment, standardize, epochs, epochs_before=0)
    parts = _parts(sources, own)
    first = replace(stage, report=without_test(stage.report)) if refit else stage
    measured = run_parts(list(parts), lambda name, part: parts[name].run(encoder, splits, part), first)
    best = _best_by_source(parts, measured)
    again = _refits(best, measured, epochs_before=sum(part.epochs for part in parts.values())) if refit else {}
    whole = splits.joined() if refit else splits
    measured = run_parts([*parts, *again], lambda name, part: again[name].run(encoder, whole, part), stage)
    results: dict[str, float] = {}
    for name, chosen in best.items():
        tested = {score: value for score, value in measured.get(_again(chosen.slug), {}).items() if "_test" in score}
        results |= _at(measured[name] | tested, chosen.slug)
    results |= _means(results)
    stage.report(results, sum(part.epochs for part in [*parts.values(), *again.values()]) + 1)
    return results


@dataclass(frozen=True)
class _Part:
    """One source, and the recipes that are tried on it in one training.

    Args:
        slug: the source's short name.
        source: as it is written in the spec.
        protocol: the evaluation's.
        recipes: several for a probe, one for fine-tuning; not used by the neighbours' vote.
        augment: the training images' crop.
        standardize: of a probe's features.
        epochs: of the training.
        epochs_before: epochs of the parts that run first; reports count on from them.
    """

    slug: str
    source: str
    protocol: Protocol
    recipes: tuple[Recipe, ...]
    augment: TrainingCrop
    standardize: bool
    epochs: int
    epochs_before: int

    def run(self, encoder: Encoder, splits: Splits, stage: Stage) -> dict[str, float]:
        """Open the source, measure the encoder on it and return the scores by the evaluation's protocol."""

        def report(metrics: dict[str, float], epoch: int) -> None:
            stage.report(_named(metrics, self.slug), self.epochs_before + epoch)

        own_splits = _open(splits, self.source)
        if self.protocol == "knn":
            return _vote(encoder, own_splits, stage)
        reporting = replace(stage, report=report)
        if self.protocol == "linear":
            return probe(encoder, own_splits, self.recipes, reporting, self.augment, standardize=self.standardize)
        (recipe,) = self.recipes
        return _finetune(encoder, own_splits, recipe, reporting, self.augment)


def _rates(lr: float | Sequence[float] | None, protocol: Protocol, *, standardize: bool) -> tuple[float, ...]:
    if isinstance(lr, int | float):
        return (lr,)
    unscaled = protocol == "linear" and not standardize
    return tuple(lr or (UNSCALED_LR if unscaled else DEFAULT_LR.get(protocol, ())))


def _parts(sources: Iterable[str], own: _Part) -> dict[str, _Part]:
    """The parts by name, each like `own`: one a source, or one a source and recipe to fine-tune."""
    tries = [(recipe,) for recipe in own.recipes] if own.protocol == "finetune" else [own.recipes]
    steps = 0 if own.protocol == "knn" else own.epochs
    parts: dict[str, _Part] = {}
    for slug, source in slugs(sources).items():
        for number, tried in enumerate(tries):
            at = replace(own, slug=slug, source=source, epochs_before=len(parts) * steps)
            parts[f"{slug} {number}"] = replace(at, recipes=tried, epochs=steps)
    return parts


def _refits(
    best: Mapping[str, _Part], measured: Mapping[str, Mapping[str, float]], epochs_before: int
) -> dict[str, _Part]:
    """The best part of each source with the recipe that it has chosen, to train again on all images."""
    refits: dict[str, _Part] = {}
    for name, part in best.items():
        recipes = part.recipes and (chosen_of(part.recipes, measured[name]),)
        before = epochs_before + len(refits) * part.epochs
        refits[_again(part.slug)] = replace(part, recipes=recipes, epochs_before=before)
    return refits


def _again(slug: str) -> str:
    return f"{slug} refit"


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
    return {f"loss_{slug}": metrics["loss"], "images_per_second": metrics["images_per_second"], **_at(metrics, slug)}


def _at(metrics: Mapping[str, float], slug: str) -> dict[str, float]:
    """The scores among the metrics, with the source in their names."""
    names = {f"{score}_{slug}_{split}": f"{score}_{split}" for score, split in product(SCORES, SPLITS)}
    return {named: metrics[name] for named, name in names.items() if name in metrics}


def _best_by_source(parts: Mapping[str, _Part], measured: Mapping[str, dict[str, float]]) -> dict[str, _Part]:
    """The part of each source that is best on validation, by its name; the only one without validation images."""
    best: dict[str, str] = {}
    for name, part in parts.items():
        top1 = measured[name].get("top1_val", 0.0)
        if part.slug not in best or top1 > measured[best[part.slug]]["top1_val"]:
            best[part.slug] = name
    return {name: parts[name] for name in best.values()}


def _means(results: Mapping[str, float]) -> dict[str, float]:
    """The mean of each score over the sources."""
    by_score = {
        f"{score}_{split}": [x for name, x in results.items() if name.startswith(score) and name.endswith(f"_{split}")]
        for score, split in product(SCORES, SPLITS)
    }
    return {name: fmean(values) for name, values in by_score.items() if values}


def _vote(encoder: Encoder, splits: Splits, stage: Stage) -> dict[str, float]:
    return knn_scores(encoder, splits, stage, ks=(NEIGHBOURS,), temperature=TEMPERATURE)[0]


def _finetune(
    encoder: Encoder, splits: Splits, recipe: Recipe, stage: Stage, augment: TrainingCrop
) -> dict[str, float]:
    classifier = Classifier(deepcopy(encoder), encoder.feature_dim, splits.num_classes)

    def score(epoch: Epoch) -> None:
        stage.report(epoch.metrics | measure(classifier, splits, stage), epoch.number)

    train(classifier, splits.train, splits.image_size, recipe, stage, augment, score)
    return classifier.results()
