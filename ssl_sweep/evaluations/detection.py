"""Detection: Faster R-CNN with the encoder as its backbone, fine-tuned on photos with boxes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.data.items import Source
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.voc_sets import BoxedPack, BoxedSplits, Target, load_voc, photos, read_voc
from ssl_sweep.models.detector import Detector
from ssl_sweep.models.resnet import ResNetEncoder
from ssl_sweep.training.average_precision import NAMES, average_precision, average_precision_metric
from ssl_sweep.training.loop import Epoch, Stage, fit
from ssl_sweep.training.optimizers import Recipe

METRICS = tuple(f"{name}_{split}" for split in ("val", "test") for name in NAMES)
NEEDS_LABELS = False  # it has boxes of its own
MILESTONES = (0.75, 0.92)  # 18,000 and 22,000 of 24,000 steps
WARMUP = 0.05  # of the run: the heads start from noise
CHECK = {"knobs": {"source": "voc:DIR"}, "needs": "photos with boxes"}  # the checks make none

BoxedSource = Annotated[
    str, Field(min_length=1, description="voc:DIR, photos and boxes in Pascal-VOC format; DIR may be relative")
]
Neck = Annotated[
    Literal["c4", "fpn"],
    Field(description="c4: regions on the third stage, the fourth is the box head; fpn: a pyramid of all stages"),
]
TrainSet = Annotated[
    Literal["train", "trainval"],
    Field(description="trainval: train on all of it but data.val_fraction; val.txt is not used"),
]
ImageSide = Annotated[
    int, Field(ge=32, description="pixels of the short side that photos are scaled to; anchors scale with it")
]
WarmedUp = Annotated[
    Literal["cosine", "constant", "step"],
    Field(description="learning rate after the warm-up; step: a tenth at 75 % and at 92 % of the run"),
]
BatchNorm = Annotated[
    Literal["train", "frozen"],
    Field(description="train: statistics of each batch; frozen: statistics and scales of the pretraining"),
]
Proposals = Annotated[
    int,
    Field(ge=2, description="regions of a photo that are classified in a test; half as many are sampled in training"),
]
OnBadBox = Annotated[
    Literal["raise", "skip"],
    Field(
        description="raise: a degenerate box ends the trial; skip: it is left out, logged and counted; for images, "
        "see data.on_error"
    ),
]


def epoch_metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The validation split's: the test split is measured after the last epoch alone."""
    return tuple(metric for metric in METRICS if metric.endswith("_val"))


def check_data(settings: Mapping[str, Any], root: Path) -> Source:
    """Read the source's lists and annotations. Raises DataError when one is missing or damaged."""
    return photos(read_voc(settings["source"], root, train_set=settings["train_set"], on_error=settings["on_error"]))


def evaluate(
    encoder: ResNetEncoder,
    splits: Splits,
    stage: Stage,
    *,
    source: BoxedSource,
    neck: Neck = "c4",
    train_set: TrainSet = "train",
    image_side: ImageSide = 480,
    epochs: Annotated[int, Field(ge=1, description="epochs of fine-tuning; 23 are 24,000 steps on VOC07+12")] = 23,
    batch_size: Annotated[int, Field(ge=2, description="photos a step")] = 8,
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 0.01,
    weight_decay: Annotated[float, Field(ge=0, description="weight decay")] = 1e-4,
    schedule: WarmedUp = "step",
    batch_norm: BatchNorm = "train",
    proposals: Proposals = 1000,
    on_error: OnBadBox = "raise",
) -> dict[str, float]:
    """AP (COCO's, over IoU 0.50 to 0.95), AP50 and AP75 of the last epoch, in percent.

    The protocol is that of He et al. 2020, "Momentum Contrast", section 4.2.1: all layers are trained, with SGD, steps
    of the rate at 3/4 and 11/12 of the run, and flips. It differs in a fixed short side, in new layers without batch
    normalisation, and in batch statistics of one device (there: shared by eight). Difficult objects are trained on and
    ignored in tests, as by VOC's own tool; AP50 is COCO's, `ap50_voc07` the 11-point one of VOC 2007.

    `batch_norm: train` normalises by the batch, as that paper does. It works with small batches, since the maps of a
    step hold thousands of positions; `frozen` is for about two photos a step, and needs a pretrained encoder.

    Raises:
        ValueError: the encoder is not a ResNet.
        DataError: the photos or their boxes are missing or damaged.
        ImportError: the extra `detection` is not installed.
    """
    metric = average_precision_metric()
    boxed = load_voc(source, splits.origin, short_side=image_side, train_set=train_set, on_error=on_error)
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        milestones=MILESTONES,
        warmup_epochs=WARMUP * epochs,
    )
    detector = Detector(
        encoder,
        len(boxed.classes),
        neck=neck,
        image_side=image_side,
        proposals=proposals,
        freeze_batchnorm=batch_norm == "frozen",
        autocast=stage.autocast,
    )
    # not channels_last, as elsewhere: a CPU's gradient of a strided 1x1 convolution of fewer than 16 channels then
    # overwrites memory (oneDNN issue 6035), which kills the process on maps as large as a photo's
    model = _Measured(detector, boxed, recipe, metric, stage).to(stage.device)
    fit(model, model.loss, len(boxed.train), recipe, stage, model.score)
    return model.results()


class _Measured(nn.Module):
    """A detector and its last scores, a buffer beside its weights, so that a resumed run has them."""

    scores: Tensor

    def __init__(self, detector: Detector, boxed: BoxedSplits, recipe: Recipe, metric: Any, stage: Stage) -> None:
        super().__init__()
        self.detector = detector
        self.boxed, self.recipe, self.metric, self.stage = boxed, recipe, metric, stage
        self.register_buffer("scores", torch.full((len(METRICS),), -1.0, dtype=torch.float64))

    def loss(self, indices: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the detector's losses on photos `indices` (B,), each flipped or not, and the losses by name."""
        images, targets = on_device(*self.boxed.train.batch(indices), self.stage.device)
        losses = self.detector.losses(*some_flipped(images, targets, rng))
        return torch.stack(list(losses.values())).sum(), losses

    def score(self, epoch: Epoch) -> None:
        """Measure and report the validation split, and after the last epoch the test split too."""
        if len(self.boxed.val):
            self._measure("val", self.boxed.val)
        # nothing is chosen by the test split, and it costs as much as the rest of the epoch
        if epoch.number == self.recipe.num_epochs:
            self._measure("test", self.boxed.test)
        scores = {name: value for name, value in self.results().items() if value >= 0}
        self.stage.report(epoch.metrics | scores | {"skipped_boxes": float(self.boxed.skipped)}, epoch.number)

    def results(self) -> dict[str, float]:
        """`METRICS` in percent, of validation images if there are any; -1 for what is not measured yet."""
        measured = dict(zip(METRICS, self.scores.tolist(), strict=True))
        return {name: value for name, value in measured.items() if len(self.boxed.val) or not name.endswith("_val")}

    def _measure(self, split: str, pack: BoxedPack) -> None:
        for name, value in measure(self.detector, pack, self.recipe.batch_size, self.metric, self.stage).items():
            self.scores[METRICS.index(f"{name}_{split}")] = value


def measure(detector: Detector, pack: BoxedPack, batch_size: int, metric: Any, stage: Stage) -> dict[str, float]:
    """Average precision of the detector on a split."""
    detections, truth = [], []
    for indices in torch.split(torch.arange(len(pack)), batch_size):
        images, targets = pack.batch(indices)
        detections += detector.detect(on_device(images, targets, stage.device)[0])
        truth += targets
    return average_precision(metric, detections, truth)


def on_device(images: list[Tensor], targets: list[Target], device: torch.device) -> tuple[list[Tensor], list[Target]]:
    """Images in [0, 1], from uint8, and their targets, on the device."""
    return (
        [image.to(device) / 255 for image in images],
        [{name: x.to(device) for name, x in target.items()} for target in targets],
    )


def some_flipped(
    images: list[Tensor], targets: list[Target], rng: torch.Generator
) -> tuple[list[Tensor], list[Target]]:
    """The batch, each image mirrored with probability 1/2."""
    flips = torch.rand(len(images), generator=rng, device=rng.device) < 0.5
    pairs = [
        flipped(image, target) if flip else (image, target)
        for image, target, flip in zip(images, targets, flips.tolist(), strict=True)
    ]
    return [image for image, _ in pairs], [target for _, target in pairs]


def flipped(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """The mirrored image (3, H, W) and its target."""
    left, top, right, bottom = target["boxes"].unbind(dim=1)
    width = image.shape[-1]
    return image.flip(-1), {**target, "boxes": torch.stack([width - right, top, width - left, bottom], dim=1)}
