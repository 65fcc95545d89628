"""A linear classifier trained together with its body, its inputs, and its scores by split."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.views import Augment
from ssl_sweep.models.drop_path import set_drop_path
from ssl_sweep.models.momentum import WeightAverage
from ssl_sweep.models.precision import full_precision
from ssl_sweep.training.accuracy import SCORES, Tally, ranked_by
from ssl_sweep.training.features import batches, inputs
from ssl_sweep.training.loop import Epoch, Stage, fit
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.tuning import Tuning, groups_of

SPLITS = ("val", "test")
METRICS = (
    *(f"{score}_{split}" for score in SCORES for split in SPLITS),
    *(f"top1_best_{split}" for split in SPLITS),
)
CROP_SCALE_MIN = 0.08  # of MoCo's public linear classifier (He et al. 2020, arXiv:1911.05722): torchvision's default

PLAIN = Tuning()

Batches = Iterable[tuple[Tensor, Tensor]]
Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
TrainingCrop = Annotated[
    Literal["none", "crop_flip"],
    Field(description="training images: centre crop, or random resized crop (area 0.08 to 1) and flip"),
]


class Scores(nn.Module):
    """The last epoch's scores in percent, and the top-1 of the best; a module, so that checkpoints contain the best."""

    last: Tensor
    best: Tensor

    def __init__(self) -> None:
        super().__init__()
        # NaN: not measured
        self.register_buffer("last", torch.full((len(SCORES), len(SPLITS)), torch.nan, dtype=torch.float64))
        # below any accuracy, so that the first epoch becomes the best
        self.register_buffer("best", torch.full((len(SPLITS),), -1.0, dtype=torch.float64))

    def add(self, val: Tensor, test: Tensor) -> None:
        """Add an epoch's `SCORES` (3,) of each split, not numbers for a split without images.

        The best epoch is the first with the highest validation top-1.
        """
        self.last.copy_(torch.stack([val, test], dim=1))
        if float(self.last[0, 0]) > float(self.best[0]):
            self.best.copy_(self.last[0])

    def metrics(self) -> dict[str, float]:
        """`METRICS`: the last epoch on both splits, then the best on both; on test alone without validation images."""
        metrics = dict(zip(METRICS, (*self.last.flatten().tolist(), *self.best.tolist()), strict=True))
        if not math.isnan(metrics["top1_val"]):
            return metrics
        return {name: value for name, value in metrics.items() if not name.endswith("_val") and "_best_" not in name}


class Classifier(nn.Module):
    """`body` maps inputs (B, ...) to features (B, D); the head is linear.

    Raises:
        ValueError: `tuning` does not fit the body.
    """

    parameter_groups: Callable[[], list[dict[str, Any]]] | None = None

    def __init__(self, body: nn.Module, feature_dim: int, num_classes: int, tuning: Tuning = PLAIN) -> None:
        super().__init__()
        self.body, self.tuning = body, tuning
        self.head = nn.Linear(feature_dim, num_classes)
        self.scores = Scores()
        if tuning.drop_path:
            set_drop_path(body, tuning.drop_path)
        self.average = None if tuning.ema is None else WeightAverage(self._online(), tuning.ema)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, classes) in fp32; in evaluation mode those of the averaged weights, if there are any."""
        averaged = self.average is not None and not self.training
        body, head = self.average.network if averaged and self.average is not None else (self.body, self.head)
        features = body(inputs)
        with full_precision(features):
            logits: Tensor = head(features.float())
        return logits

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy with labels (B,), or with shares of classes (B, classes)."""
        return self.tuning.loss(self(inputs), labels)

    def after_step(self, progress: float) -> None:
        """Move the average of the weights."""
        if self.average is not None:
            self.average.step(self._online())

    def _online(self) -> nn.Sequential:
        return nn.Sequential(self.body, self.head)

    def score(self, val: Batches, test: Batches) -> dict[str, float]:
        """Measure both splits in evaluation mode, store the best epoch, and return the metrics; `val` may be empty."""
        self.eval()
        self.scores.add(*(accuracies(self, split, self.head.out_features)[:, 0] for split in (val, test)))
        return self.results()

    def results(self) -> dict[str, float]:
        """`METRICS` in percent, as last measured."""
        return self.scores.metrics()


@torch.no_grad()
def accuracies(model: nn.Module, split: Batches, num_classes: int) -> Tensor:
    """`SCORES` in percent (3, K) float64 of logits (B, K, classes) of K heads, or (B, classes) of one."""
    tally = Tally(num_classes)
    for inputs_, labels in split:
        logits = model(inputs_)
        tally.add(ranked_by(logits if logits.ndim == 3 else logits.unsqueeze(1)), labels)
    return tally.percent()


def train(
    classifier: Classifier,
    pack: Pack,
    image_size: int,
    recipe: Recipe,
    stage: Stage,
    crop: TrainingCrop,
    after_epoch: Callable[[Epoch], None],
) -> None:
    """Train body and head on the labels of `pack`, in place; resumes (`training.fit`)."""
    classifier.to(stage.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier.parameter_groups = groups_of(classifier, classifier.body, recipe, classifier.tuning)
    draw, num_classes = training_inputs(pack, image_size, stage, crop), classifier.head.out_features

    def loss(indices: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(stage.device.type, enabled=False):  # inputs are in fp32
            images, labels = classifier.tuning.augmented(*draw(indices, rng), num_classes, rng)
        return classifier.loss(images, labels), {}

    fit(classifier, loss, len(pack), recipe, stage, after_epoch)


def measure(classifier: Classifier, splits: Splits, stage: Stage) -> dict[str, float]:
    """`Classifier.score` on centre crops of the validation and the test images."""
    with stage.autocast():
        return classifier.score(*(batches(pack, splits.image_size, stage) for pack in (splits.val, splits.test)))


def training_inputs(pack: Pack, image_size: int, stage: Stage, crop: TrainingCrop) -> Draw:
    """A function of a step's indices (B,) and generator: images (B, 3, S, S) in [0, 1] channels-last, labels (B,)."""
    views = Augment(image_size, crop_scale_min=CROP_SCALE_MIN)

    def crop_flip(indices: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        images = views.view(pack.batch(indices).to(stage.device), rng)
        return images.contiguous(memory_format=torch.channels_last), pack.labels[indices].to(stage.device)

    def center_crop(indices: Tensor, _rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return inputs(pack, indices, image_size, stage)

    return crop_flip if crop == "crop_flip" else center_crop
