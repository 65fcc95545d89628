"""Health during pretraining: detects a collapse and measures features, without waiting for evaluations.

Every metric is of frozen encoder features, in evaluation mode, on images that are the same in every epoch and trial.
Measuring does not affect training: it keeps random numbers, batch statistics and modes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.data.pack import labelled
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.views import Augment
from ssl_sweep.models.losses import feature_std
from ssl_sweep.models.representation import alignment, effective_rank, uniformity
from ssl_sweep.training.declarations import MethodDeclarations, declared
from ssl_sweep.training.features import extract, fixed_subset
from ssl_sweep.training.loop import Diverged, Stage
from ssl_sweep.training.neighbours import classify, top1
from ssl_sweep.training.view_features import view_features

# feature_std has a split in its name, since methods log feature_std of their projections of training views
METRICS = ("feature_std_val", "effective_rank", "alignment", "uniformity", "knn_top1_val")
SPREADS = ("feature_std_val", "feature_std")  # 1: spread out, 0: collapsed
TEMPERATURE = 0.1  # as the k-NN evaluation's default

Labelled = tuple[Tensor, Tensor]  # features (N, D), labels (N,)


class Collapsed(RuntimeError):  # noqa: N818 - the trial's tag has this name
    """All images have nearly the same features, and the spec stops such trials."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """The `health` section of a spec: what is measured between the epochs of pretraining, and the collapse alarm."""

    every: Annotated[
        int, Field(ge=0, description="epochs between measurements; the last is measured too; 0: never")
    ] = 1
    images: Annotated[int, Field(ge=2, description="maximum number of validation images to measure")] = 512
    bank: Annotated[int, Field(ge=1, description="maximum number of training images for `knn_top1_val`")] = 2000
    neighbours: Annotated[int, Field(ge=1, description="maximum number of neighbours in `knn_top1_val`")] = 20
    votes_by: Annotated[
        Literal["features", "projections"],
        Field(description="vectors compared for `knn_top1_val`; projections need a method with a projector"),
    ] = "features"
    collapse_below: Annotated[
        float, Field(ge=0, le=1, description="spread of features or projections below which a trial has collapsed")
    ] = 0.02
    on_collapse: Annotated[
        Literal["tag", "stop"], Field(description="tag a collapsed trial `collapsed`, or also stop it as failed")
    ] = "tag"

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to measure after `epoch` (from 1) of `epochs`; the last epoch's values are the trial's results."""
        return self.every > 0 and (epoch % self.every == 0 or epoch == epochs)

    def collapsed(self, metrics: dict[str, float]) -> str | None:
        """The name of the spread that is below the threshold in an epoch's metrics; None if the encoder is healthy.

        With batch normalisation a collapse may show only in the projections, whose spread the methods log. Untrained
        ResNets and ViTs have 0.07 to 0.3, collapsed encoders are below 0.01.
        """
        return next((name for name in SPREADS if metrics.get(name, 1.0) < self.collapse_below), None)

    def refuse(self, metrics: dict[str, float], epoch: int) -> None:
        """Raise Collapsed if the encoder has collapsed and `on_collapse` is stop."""
        name = self.collapsed(metrics)
        if name is not None and self.on_collapse == "stop":
            raise Collapsed(
                f"{name} is {metrics[name]:.3g} after epoch {epoch}, below health.collapse_below "
                f"({self.collapse_below}): all images have nearly the same features; lower pretrain.lr, change the "
                "method's knobs against collapse, or set health.on_collapse to tag"
            )


def health_of(config: Mapping[str, Any]) -> Health:
    """The health section of a trial's config; the defaults for older configs without one."""
    return Health(**config.get("health", {}))


def voting_projector(method: nn.Module, health: Health) -> nn.Module | None:
    """The module applied to features (N, D) before they are compared for `knn_top1_val`; None for the features.

    Raises:
        ValueError: `votes_by` is projections, and the method has no projector.
    """
    if health.votes_by == "features":
        return None
    declarations = declared(MethodDeclarations, method)
    if declarations.projector is None:
        raise ValueError("health.votes_by: this method has no projector; use 'features'")
    return declarations.projector if declarations.evaluated is None else declarations.evaluated()[1]


def measure(
    encoder: nn.Module,
    splits: Splits,
    augment: Augment,
    health: Health,
    stage: Stage,
    epoch: int,
    project: nn.Module | None = None,
) -> dict[str, float]:
    """`METRICS` of an encoder after `epoch`; the same weights and epoch give the same values.

    `project` is applied to features before they are compared for `knn_top1_val` (`voting_projector`). Images without a
    label have no part in that, and it is left out where no training or no validation image has one.

    Raises:
        Diverged: a feature is not finite.
    """
    val = fixed_subset(splits.val, health.images)
    with _evaluation_mode(encoder):
        features = extract(encoder, val, splits.image_size, stage)
        rng = stage.generator("health", epoch)
        pair = [partial(augment.view, rng=rng, second=second) for second in (False, True)]
        views = view_features(encoder, val, pair, stage)
        compared = _labelled_features(encoder, splits, health, features, stage)
    for measured in (features[0], views, *(x for x, _ in compared)):
        if not bool(measured.isfinite().all()):
            raise Diverged(f"a feature is not a finite number after epoch {epoch}; lower lr or set clip_norm")
    spread = {
        "feature_std_val": float(feature_std(features[0])),
        "effective_rank": effective_rank(features[0]),
        "alignment": alignment(views),
        "uniformity": uniformity(features[0]),
    }
    if not compared:
        return spread
    (queries, truth), (voters, labels) = compared
    if project is not None:
        queries, voters = _projected(project, queries, voters)
    predicted = classify(queries, voters, labels, splits.num_classes, ks=(health.neighbours,), temperature=TEMPERATURE)
    return {**spread, "knn_top1_val": top1(predicted, truth)[0]}


def _labelled_features(
    encoder: nn.Module, splits: Splits, health: Health, features: Labelled, stage: Stage
) -> tuple[Labelled, ...]:
    """Features and labels of the images that are classified and of those that vote; nothing where one of them lacks.

    `features` are those of the validation images, which serve where all have a label.
    """
    val, train = labelled(splits.val), labelled(splits.train)
    if not len(val) or not len(train):
        return ()
    if val is not splits.val:
        features = extract(encoder, fixed_subset(val, health.images), splits.image_size, stage)
    return features, extract(encoder, fixed_subset(train, health.bank), splits.image_size, stage)


@contextmanager
def _evaluation_mode(encoder: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, then restore each module's mode: a frozen module stays frozen."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _projected(project: nn.Module, *features: Tensor) -> tuple[Tensor, ...]:
    with _evaluation_mode(project):
        return tuple(project(x) for x in features)
