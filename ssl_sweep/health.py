"""Health while training: is the encoder collapsing, and what are its features worth, without waiting for evaluations.

Every quantity is of frozen encoder features, in evaluation mode, on images that are the same in every epoch and every
trial. Measuring leaves no trace in the training: not in its random numbers, its batch statistics or its modes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.views import Augment
from ssl_sweep.evaluations.knn import knn_votes
from ssl_sweep.features import EVAL_BATCH, extract
from ssl_sweep.models.losses import feature_std, unit
from ssl_sweep.models.precision import at_least_fp32
from ssl_sweep.training import Diverged, Stage

# feature_std has its split in its name, since methods log the same of their projections of training views
METRICS = ("feature_std_val", "effective_rank", "alignment", "uniformity", "knn_top1_val")
SPREADS = ("feature_std_val", "feature_std")  # 1 spread out, 0 collapsed
TEMPERATURE = 0.1  # as the k-NN evaluation's default
RANK_EPS = 1e-7


class Collapsed(RuntimeError):  # noqa: N818 - the trial's tag has this name
    """All images have nearly the same features, and the spec wants such a trial stopped."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """The `health` section of a spec: what is measured between the epochs of pretraining, and the collapse alarm."""

    every: Annotated[int, Field(ge=0, description="measure after every so many epochs and the last; 0: never")] = 1
    images: Annotated[int, Field(ge=2, description="validation images that are measured, at most")] = 512
    bank: Annotated[int, Field(ge=1, description="training images that vote in `knn_top1_val`, at most")] = 2000
    neighbours: Annotated[int, Field(ge=1, description="images of the bank that vote, at most")] = 20
    votes_by: Annotated[
        Literal["features", "projections"],
        Field(description="what is compared for `knn_top1_val`; projections: where the method has a projector"),
    ] = "features"
    collapse_below: Annotated[
        float, Field(ge=0, le=1, description="spread that is a collapse, of features or a method's own projections")
    ] = 0.02
    on_collapse: Annotated[
        Literal["tag", "stop"], Field(description="tag the trial `collapsed`, or stop it too: it has failed")
    ] = "tag"

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to measure after `epoch` (from 1 on) of `epochs`: the last one's values are the trial's results."""
        return self.every > 0 and (epoch % self.every == 0 or epoch == epochs)

    def collapsed(self, metrics: dict[str, float]) -> str | None:
        """The spread among an epoch's metrics that is below the threshold; None where the encoder is sound.

        With batch normalisation a collapse may show in the projections only, whose spread the methods log. Untrained
        ResNets and ViTs are at 0.07 to 0.3, what has collapsed is below 0.01.
        """
        return next((name for name in SPREADS if metrics.get(name, 1.0) < self.collapse_below), None)

    def refuse(self, metrics: dict[str, float], epoch: int) -> None:
        """Raises Collapsed where a collapsed trial is to stop."""
        name = self.collapsed(metrics)
        if name is not None and self.on_collapse == "stop":
            raise Collapsed(
                f"{name} is {metrics[name]:.3g} after epoch {epoch}, below health.collapse_below "
                f"({self.collapse_below}): all images look nearly the same; lower pretrain.lr, strengthen what the "
                "method has against collapse, or set health.on_collapse to tag"
            )


def voting_projector(method: nn.Module, health: Health) -> nn.Module | None:
    """What features (N, D) go through before they are compared for `knn_top1_val`; None: they are as they are.

    Raises:
        ValueError: projections are asked for, and the method makes none.
    """
    if health.votes_by == "features":
        return None
    projector = getattr(method, "projector", None)
    if not isinstance(projector, nn.Module):
        raise ValueError("health.votes_by: this method has no projector; use 'features'")
    return projector


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

    Features go through `project` before they are compared for `knn_top1_val` (`voting_projector`).

    Raises:
        Diverged: a feature is not a finite number.
    """
    val, bank = _some(splits.val, health.images), _some(splits.train, health.bank)
    with _evaluation_mode(encoder):
        features, truth = extract(encoder, val, splits.image_size, stage)
        voters, labels = extract(encoder, bank, splits.image_size, stage)
        first, second = _two_views(encoder, val, augment, stage, stage.generator("health", epoch))
        seen, known = (features, voters) if project is None else _projected(project, features, voters)
    for measured in (features, voters, first, second):
        if not bool(measured.isfinite().all()):
            raise Diverged(f"a feature is not a finite number after epoch {epoch}; lower lr or set clip_norm")
    return {
        "feature_std_val": float(feature_std(features)),
        "effective_rank": effective_rank(features),
        "alignment": alignment(first, second),
        "uniformity": uniformity(features),
        "knn_top1_val": knn_top1(seen, truth, known, labels, splits.num_classes, health.neighbours),
    }


def effective_rank(features: Tensor) -> float:
    """exp(−Σ p_k log p_k), p_k = σ_k / Σσ + 1e-7, σ the singular values of uncentred features (N, D): 1 to min(N, D).

    Source: Garrido et al. 2023, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
    Representations by Their Rank", equation 1. To compare within one method, data set and N only.
    """
    values = torch.linalg.svdvals(at_least_fp32(features))  # (min(N, D),)
    p = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + RANK_EPS
    return float((-(p * p.log()).sum()).exp())


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean ‖x − y‖² of L2-normalised features (N, D) and (N, D) of two views of the same images: 0 to 4.

    Source: Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", section 4.1, α = 2.
    """
    return float((unit(first) - unit(second)).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float:
    """log mean exp(−2‖x − y‖²) over all pairs of L2-normalised features (N, D): 0 in one point, −4 wide apart.

    −4 is met by features at right angles; a uniform sphere comes close to it as D grows. Not a number where N is 1.

    Source: Wang & Isola 2020, section 4.1, t = 2, there of augmented views; here of centre crops.
    """
    squared = torch.pdist(unit(features)).square()  # (N·(N − 1)/2,)
    return float(squared.mul(-2).exp().mean().log())


def knn_top1(queries: Tensor, truth: Tensor, bank: Tensor, labels: Tensor, num_classes: int, neighbours: int) -> float:
    """Percent of `queries` (Q, D) whose class `truth` (Q,) wins the vote of the nearest of `bank` (N, D) and `labels`.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    """
    votes = knn_votes(queries, bank, labels, num_classes, k=neighbours, temperature=TEMPERATURE)  # (Q, classes)
    return 100.0 * float((votes.argmax(dim=1) == truth).double().mean())


def _some(pack: Pack, count: int) -> Pack:
    """At most `count` images of a split, the same whatever the trial's seed: trials are compared by them."""
    return pack.subset(torch.randperm(len(pack), generator=torch.Generator().manual_seed(0))[:count])


@contextmanager
def _evaluation_mode(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, then every module's own mode again: a frozen one stays frozen."""
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


@torch.no_grad()
def _two_views(
    encoder: nn.Module, pack: Pack, augment: Augment, stage: Stage, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features (N, D) in fp32 of two random views of each image, a first one and a second one."""
    views: tuple[list[Tensor], list[Tensor]] = ([], [])
    for indices in torch.split(torch.arange(len(pack)), EVAL_BATCH):
        images = pack.batch(indices).to(stage.device)
        for second, features in enumerate(views):
            view = augment.view(images, rng, second=bool(second)).contiguous(memory_format=torch.channels_last)
            with stage.autocast():
                features.append(encoder(view).float())
    return torch.cat(views[0]), torch.cat(views[1])
