"""Linear probes: several linear classifiers on the same frozen features, trained together; validation chooses."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.splits import Splits
from ssl_sweep.models.precision import full_precision
from ssl_sweep.training import optimizers
from ssl_sweep.training.classifier import Batches, Draw, Scores, TrainingCrop, top1, training_inputs
from ssl_sweep.training.features import EVAL_BATCH, extract
from ssl_sweep.training.loop import Epoch, Stage, fit
from ssl_sweep.training.optimizers import Recipe

CHOSEN = ("lr", "weight_decay")  # the knobs in which heads may differ; the best head's are reported as NAME_best


class Heads(nn.Module):
    """Linear heads on the same features (B, D) with the same initial weights, one for each recipe.

    Each is trained as if it were alone: the loss is a sum over the heads, and each head has its own parameter groups.
    """

    chosen: Tensor

    def __init__(self, feature_dim: int, num_classes: int, recipes: Sequence[Recipe]) -> None:
        super().__init__()
        first = nn.Linear(feature_dim, num_classes)
        self.heads = nn.ModuleList(deepcopy(first) for _ in recipes)
        self.recipes = tuple(recipes)
        self.scores = Scores()
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))

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
            return F.linear(features.float(), weight, bias).view(len(features), len(self.heads), -1)

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
        """Measure both splits, choose the best head on validation, and return `results`."""
        self.eval()
        val_each, test_each = top1(self, val), top1(self, test)  # (heads,)
        self.chosen.copy_(val_each.argmax())
        self.scores.add(float(val_each[self.chosen]), float(test_each[self.chosen]))
        return self.results()

    def results(self) -> dict[str, float]:
        """`classifier.METRICS` of the chosen head, and its knobs that vary between the heads."""
        recipe = self.recipes[int(self.chosen)]
        varied = (name for name in CHOSEN if len({getattr(recipe, name) for recipe in self.recipes}) > 1)
        return self.scores.metrics() | {f"{name}_best": getattr(recipe, name) for name in varied}


def probe(
    encoder: nn.Module, splits: Splits, recipes: Sequence[Recipe], stage: Stage, crop: TrainingCrop
) -> dict[str, float]:
    """Train one head per recipe on frozen features, report each epoch, and return the results of the best; resumes.

    recipes: equal except for `CHOSEN`. Without a random crop each image is encoded once, and the heads are trained on
    the stored features; with one, the features of a step are computed once for all heads.
    """
    val, test = (extract(encoder, pack, splits.image_size, stage) for pack in (splits.val, splits.test))
    draw = _stored(encoder, splits, stage) if crop == "none" else _computed(encoder, splits, stage, crop)
    heads = Heads(val[0].shape[1], splits.num_classes, recipes).to(stage.device)

    def loss(indices: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return heads.loss(*draw(indices, rng))

    def score(epoch: Epoch) -> None:
        stage.report(epoch.metrics | heads.score(_chunks(*val), _chunks(*test)), epoch.number)

    fit(heads, loss, len(splits.train), recipes[0], stage, score)
    return heads.results()


def _stored(encoder: nn.Module, splits: Splits, stage: Stage) -> Draw:
    features, labels = extract(encoder, splits.train, splits.image_size, stage)

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


def _chunks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(features, EVAL_BATCH), torch.split(labels, EVAL_BATCH), strict=True)
