"""Linear probes: several linear classifiers on the same frozen features, trained together; validation chooses."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Splits
from ssl_sweep.models.precision import full_precision
from ssl_sweep.training import optimizers
from ssl_sweep.training.classifier import Batches, Draw, Scores, TrainingCrop, accuracies, training_inputs
from ssl_sweep.training.features import EVAL_BATCH, extract
from ssl_sweep.training.loop import Epoch, Stage, fit
from ssl_sweep.training.optimizers import Recipe

CHOSEN = ("lr", "weight_decay")  # the knobs in which heads may differ; the best head's are reported as NAME_best
# the default of evaluations: long enough, and without a rate so low that it has not converged by then: validation with
# few images would choose it by chance
EPOCHS = 100
RATES = (0.1, 0.3, 1.0)
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
EPSILON = 1e-6  # of a feature's mean: a smaller deviation is rounding, and the feature is constant

Labelled = tuple[Tensor, Tensor]  # features (N, D) and labels (N,)
Statistics = tuple[Tensor, Tensor]  # mean and standard deviation (D,) of features
Standardize = Annotated[
    bool,
    Field(description="standardise features by the mean and deviation of the training images', without parameters"),
]


class Heads(nn.Module):
    """Linear heads on the same features (B, D) with the same initial weights, one for each recipe.

    Each is trained as if it were alone: the loss is a sum over the heads, and each head has its own parameter groups.
    With `statistics`, features are standardised first. That is linear too: weight / std and bias - weight @ (mean /
    std) are the same head on the features as they are.
    """

    chosen: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, feature_dim: int, num_classes: int, recipes: Sequence[Recipe], statistics: Statistics | None = None
    ) -> None:
        super().__init__()
        first = nn.Linear(feature_dim, num_classes)
        self.heads = nn.ModuleList(deepcopy(first) for _ in recipes)
        self.num_classes = num_classes
        self.recipes = tuple(recipes)
        self.scores = Scores()
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        mean, std = statistics or (torch.zeros(feature_dim), torch.ones(feature_dim))
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Every head's groups under its own recipe, for `optimizers.build`."""
        return [
            {**group, "peak_lr": recipe.peak_lr}
            for head, recipe in zip(self.heads, self.recipes, strict=True)
            for group in optimizers.parameter_groups(head, recipe)
        ]

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, heads, classes) in fp32."""
        # one product for all heads: weight (heads * classes, D)
        weight, bias = (torch.cat([head.get_parameter(name) for head in self.heads]) for name in ("weight", "bias"))
        with full_precision(features):
            standard = (features.float() - self.mean) / self.std
            return F.linear(standard, weight, bias).view(len(features), len(self.heads), -1)

    def loss(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the heads' cross-entropies, to train, and their mean, to log.

        A diverged head is left out, so that it does not end the others; if all diverged, both are NaN.
        """
        logits = self(features).transpose(1, 2)  # (B, classes, heads)
        by_head = F.cross_entropy(logits, labels.unsqueeze(1).expand(-1, len(self.heads)), reduction="none").mean(dim=0)
        finite = by_head.isfinite()
        mean = torch.where(finite, by_head, 0).sum() / finite.sum()
        return mean * finite.sum(), {"loss": mean.detach()}

    def score(self, val: Batches, test: Batches) -> dict[str, float]:
        """Measure both splits, choose the best head on validation, and return `results`; one head needs no `val`."""
        self.eval()
        val_each, test_each = (accuracies(self, split, self.num_classes) for split in (val, test))  # (3, heads)
        self.chosen.copy_(val_each[0].argmax())
        self.scores.add(val_each[:, int(self.chosen)], test_each[:, int(self.chosen)])
        return self.results()

    def results(self) -> dict[str, float]:
        """`classifier.METRICS` of the chosen head, and its knobs that vary between the heads."""
        recipe = self.recipes[int(self.chosen)]
        varied = (name for name in CHOSEN if len({getattr(recipe, name) for recipe in self.recipes}) > 1)
        return self.scores.metrics() | {f"{name}_best": getattr(recipe, name) for name in varied}


def probe(
    encoder: nn.Module,
    splits: Splits,
    recipes: Sequence[Recipe],
    stage: Stage,
    crop: TrainingCrop,
    *,
    standardize: bool = False,
) -> dict[str, float]:
    """Train one head per recipe on frozen features, report each epoch, and return the results of the best; resumes.

    recipes: equal except for `CHOSEN`. Without a random crop each image is encoded once, and the heads are trained on
    the stored features; with one, the features of a step are computed once for all heads. Either way `standardize`
    goes by the features of the training images without augmentation.
    """
    check_choice(splits, recipes)
    val = extract(encoder, splits.val, splits.image_size, stage) if len(splits.val) else None
    test = extract(encoder, splits.test, splits.image_size, stage)
    train = extract(encoder, splits.train, splits.image_size, stage) if crop == "none" or standardize else None
    draw = _stored(*train, stage) if train and crop == "none" else _computed(encoder, splits, stage, crop)
    statistics = statistics_of(train[0]) if train and standardize else None
    heads = Heads(test[0].shape[1], splits.num_classes, recipes, statistics).to(stage.device)

    def loss(indices: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return heads.loss(*draw(indices, rng))

    def score(epoch: Epoch) -> None:
        stage.report(epoch.metrics | heads.score(chunks(val), chunks(test)), epoch.number)

    fit(heads, loss, len(splits.train), recipes[0], stage, score)
    return heads.results()


def chosen_of(recipes: Sequence[Recipe], results: Mapping[str, float]) -> Recipe:
    """The recipe that the results of a `probe` of these recipes name as the best."""
    best = {name: results[f"{name}_best"] for name in CHOSEN if f"{name}_best" in results}
    return next(recipe for recipe in recipes if all(getattr(recipe, name) == value for name, value in best.items()))


def check_choice(splits: Splits, recipes: Sequence[Recipe]) -> None:
    """Raise DataError where validation is to choose a head, and there are no validation images."""
    if len(recipes) > 1 and not len(splits.val):
        remedy = "give one lr and one weight_decay, or data.val_fraction above 0"
        raise DataError(f"validation chooses one of {len(recipes)} heads, and there are no validation images; {remedy}")


def statistics_of(features: Tensor) -> Statistics:
    """Mean and deviation of features (N, D), with deviation 1 for a feature that is constant."""
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    return mean, torch.where(std > EPSILON * mean.abs(), std, 1.0)


def _stored(features: Tensor, labels: Tensor, stage: Stage) -> Draw:
    def draw(indices: Tensor, _rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = indices.to(stage.device)
        return features[rows], labels[rows]

    return draw


def _computed(encoder: nn.Module, splits: Splits, stage: Stage, crop: TrainingCrop) -> Draw:
    make_inputs = training_inputs(splits.train, splits.image_size, stage, crop)

    @torch.no_grad()
    def draw(indices: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = make_inputs(indices, rng)
        return encoder(images), labels

    return draw


def chunks(split: Labelled | None) -> Iterator[Labelled]:
    """Batches of the features and labels of a split, of which None has none."""
    return iter(()) if split is None else zip(*(torch.split(each, EVAL_BATCH) for each in split), strict=True)
