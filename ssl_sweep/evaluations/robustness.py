"""A linear probe of centre crops, tested on other crops and on altered images."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.resample import Window, resample
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.views import Augment
from ssl_sweep.training.classifier import top1
from ssl_sweep.training.features import EVAL_BATCH
from ssl_sweep.training.loop import Epoch, Stage, fit
from ssl_sweep.training.optimizers import BatchSize, Recipe, WeightDecay
from ssl_sweep.training.probe import Heads
from ssl_sweep.training.view_features import View, view_features

Change = Literal["crop", "resized_crop", "flip", "gray", "jitter", "blur", "solarize", "mask"]

SPLITS = ("val", "test")
SHORT_SIDE = 256 / 224  # of the resized image, over the crop's
MASK_PATCHES = 8  # a side
# each applies to every image, at the strength of MoCo-v2's and BYOL's recipes; a mask hides a quarter of the image
KNOBS: dict[str, dict[str, Any]] = {
    "flip": {"flip": 1.0},
    "gray": {"gray": 1.0},
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "jitter_probability": 1.0},
    "blur": {"blur": 1.0},
    "solarize": {"solarize": 1.0},
    "mask": {"mask_ratio": 0.25, "mask_fill": "mean"},
}


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Top-1 of centre crops, which `top1_val` and `top1_test` repeat, and of each change."""
    return tuple(
        f"top1{at}_{split}" for at in ("", "_center", *(f"_{name}" for name in settings["changes"])) for split in SPLITS
    )


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    changes: Annotated[
        tuple[Change, ...],
        Field(description="tested beside the centre crop: other crops, and centre crops with one change each"),
    ] = ("crop", "resized_crop", "flip", "gray", "jitter", "blur", "solarize", "mask"),
    epochs: Annotated[int, Field(ge=1, description="epochs of the probe")] = 20,
    batch_size: BatchSize = 256,
    lr: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(min_length=1, description="peak learning rates, all tried in one training; validation chooses"),
    ] = (0.01, 0.1, 1.0, 10.0),
    weight_decay: WeightDecay = 0.0,
) -> dict[str, float]:
    """Top-1 in percent of a linear probe of frozen features, by the change of the tested images.

    The probe is trained, and its learning rate chosen, on centre crops. `top1_center_*` and `top1_crop_*` are the two
    tests of LeOCLR (Table 7): the short side is resized to 256/224 of the image size, then the central or a random
    square is cut. The paper may mean random resized crops: those are `top1_resized_crop_*` (area 0.2 to 1). All trials
    of a seed draw the same random changes. To leave views out of pretraining, search over `views`.
    """
    packs = {"train": splits.train, "val": splits.val, "test": splits.test}

    def features_of(name: str, split: str) -> tuple[Tensor, Tensor]:
        view = view_of(name, splits.image_size, stage.generator(name, split))
        features = view_features(encoder, packs[split], [view], stage)[0]
        return features, packs[split].labels.to(stage.device)

    (features, labels), val, test = (features_of("center", split) for split in packs)
    recipes = [Recipe(epochs=epochs, batch_size=batch_size, lr=rate, weight_decay=weight_decay) for rate in lr]
    heads = Heads(features.shape[1], splits.num_classes, recipes).to(stage.device)

    def loss(indices: Tensor, _rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = indices.to(stage.device)
        return heads.loss(features[rows], labels[rows])

    def score(epoch: Epoch) -> None:
        scores = heads.score(_chunks(*val), _chunks(*test))
        stage.report(epoch.metrics | {name: scores[name] for name in ("top1_val", "top1_test")}, epoch.number)

    fit(heads, loss, len(features), recipes[0], stage, score)
    results = {}
    for name, split in product(("center", *changes), SPLITS):
        results[f"top1_{name}_{split}"] = float(top1(heads, _chunks(*features_of(name, split)))[heads.chosen])
    results |= {f"top1_{split}": results[f"top1_center_{split}"] for split in SPLITS}
    stage.report(results, epochs + 1)
    return results


def crop(images: Images, size: int, rng: torch.Generator | None = None) -> Tensor:
    """A square of every image, its short side resized to 256/224 of `size`: (B, 3, size, size) in [0, 1].

    The square is at whole pixels of the resized image: in its centre, or with a generator at a random place.
    """
    full = round(size * SHORT_SIDE) * images.sizes // images.sizes.amin(dim=1, keepdim=True)  # (B, 2)
    room = full - size
    if rng is None:
        corner = torch.round(room / 2)
    else:
        uniform = torch.rand(room.shape, generator=rng, device=rng.device)
        corner = torch.minimum((uniform * (room + 1)).long(), room)  # float32 can round up to room + 1
    sides = images.sizes.float()
    scale = sides / full
    return resample(images.pixels, Window(corner * scale, size * scale, torch.zeros_like(sides), sides), size)


def changed(images: Images, augment: Augment, rng: torch.Generator) -> Tensor:
    """Central crops of every image, rounded to 8 bits and changed by `augment`: (B, 3, size, size) in [0, 1]."""
    crops = crop(images, augment.image_size).mul(255).round().to(torch.uint8)
    sizes = images.sizes.new_full((len(crops), 2), augment.image_size)
    return augment.whole(Images(crops, sizes), rng)


def view_of(name: str, size: int, rng: torch.Generator) -> View:
    """The view that is the centre crop, or one of the changes, of every image."""
    if name in ("center", "crop"):
        return partial(crop, size=size, rng=rng if name == "crop" else None)
    if name == "resized_crop":
        return partial(Augment(size, flip=0.0).view, rng=rng)
    knobs = {"flip": 0.0, "mask_patch": _mask_patch(size), **KNOBS[name]}
    return partial(changed, augment=Augment(size, **knobs), rng=rng)


def _mask_patch(size: int) -> int:
    """The side of the largest patch that tiles the image and is at most an eighth of its side."""
    return max(side for side in range(1, max(1, size // MASK_PATCHES) + 1) if size % side == 0)


def _chunks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(features, EVAL_BATCH), torch.split(labels, EVAL_BATCH), strict=True)
