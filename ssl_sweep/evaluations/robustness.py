"""A linear probe of centre crops, tested on other crops and on altered images."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.data.eval_crop import Crop, EvalCrop, cut
from ssl_sweep.data.images import Images
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.views import Augment
from ssl_sweep.training.classifier import SPLITS, accuracies
from ssl_sweep.training.loop import Epoch, Stage, fit
from ssl_sweep.training.optimizers import BatchSize, Recipe, WeightDecay
from ssl_sweep.training.probe import (
    EPOCHS,
    RATES,
    Heads,
    Labelled,
    Standardize,
    check_choice,
    chosen_of,
    chunks,
    statistics_of,
)
from ssl_sweep.training.refit import Refit, fit_and_refit
from ssl_sweep.training.view_features import View, view_features

Change = Literal["crop", "resized_crop", "flip", "gray", "jitter", "blur", "solarize", "mask"]

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
    """Top-1 of centre crops, which `top1_val` and `top1_test` repeat, and of each change; the best of several rates."""
    places = ("", "_center", *(f"_{name}" for name in settings["changes"]))
    best = tuple(f"{name}_best" for name in chosen_on_validation(settings))
    return (*(f"top1{at}_{split}" for at in places for split in SPLITS), *best)


def chosen_on_validation(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The knobs of which several values are tried."""
    return ("lr",) if len(set(settings["lr"])) > 1 else ()


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    changes: Annotated[
        tuple[Change, ...],
        Field(description="tested beside the centre crop: other crops, and centre crops with one change each"),
    ] = ("crop", "resized_crop", "flip", "gray", "jitter", "blur", "solarize", "mask"),
    epochs: Annotated[int, Field(ge=1, description="epochs of the probe")] = EPOCHS,
    batch_size: BatchSize = 256,
    lr: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(min_length=1, description="peak learning rates, all tried in one training; validation chooses"),
    ] = RATES,
    weight_decay: WeightDecay = 1e-3,
    standardize: Standardize = True,
    refit: Refit = False,
) -> dict[str, float]:
    """Top-1 in percent of a linear probe of frozen features, by the change of the tested images.

    The probe is trained, and its learning rate chosen, on centre crops, those of `data.eval_crop` as in all
    evaluations. `top1_center_*` and `top1_crop_*` are the two tests of LeOCLR (Table 7): of the resized image the
    central or a random square is cut, for which the short side is at least 256/224 of the crop. The paper may mean
    random resized crops: those are `top1_resized_crop_*` (area 0.2 to 1). All trials of a seed draw the same random
    changes. To leave views out of pretraining, search over `views`.
    """
    recipes = [Recipe(epochs=epochs, batch_size=batch_size, lr=rate, weight_decay=weight_decay) for rate in lr]

    def fitted(used: Splits, chosen: Mapping[str, float] | None, part: Stage) -> dict[str, float]:
        tried = recipes if chosen is None else [chosen_of(recipes, chosen)]
        return _probed(encoder, used, tried, part, changes, standardize=standardize)

    results = fit_and_refit(fitted, splits, stage, refit=refit, epochs=epochs)
    if not refit:
        stage.report(results, epochs + 1)
    return results


def _probed(
    encoder: nn.Module,
    splits: Splits,
    recipes: Sequence[Recipe],
    stage: Stage,
    changes: Sequence[Change],
    *,
    standardize: bool,
) -> dict[str, float]:
    """Train the heads on centre crops, and test the best on every change; `lr_best` is among the results."""
    check_choice(splits, recipes)

    def features_of(name: str, split: str, pack: Pack) -> Labelled:
        crop = pack.eval_crop or EvalCrop().at(splits.image_size)
        view = view_of(name, crop, stage.generator(name, split))
        return view_features(encoder, pack, [view], stage)[0], pack.labels.to(stage.device)

    features, labels = features_of("center", "train", splits.train)
    center = {split: features_of("center", split, pack) for split, pack in splits.measured.items()}
    statistics = statistics_of(features) if standardize else None
    heads = Heads(features.shape[1], splits.num_classes, recipes, statistics).to(stage.device)

    def loss(indices: Tensor, _rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = indices.to(stage.device)
        return heads.loss(features[rows], labels[rows])

    def score(epoch: Epoch) -> None:
        scores = heads.score(chunks(center.get("val")), chunks(center["test"]))
        top1 = {name: scores[name] for name in ("top1_val", "top1_test") if name in scores}
        stage.report(epoch.metrics | top1, epoch.number)

    fit(heads, loss, len(features), recipes[0], stage, score)
    results = {name: value for name, value in heads.results().items() if name in ("top1_val", "top1_test", "lr_best")}
    for name, (split, pack) in product(("center", *changes), splits.measured.items()):
        tested = center[split] if name == "center" else features_of(name, split, pack)
        scores = accuracies(heads, chunks(tested), splits.num_classes)
        results[f"top1_{name}_{split}"] = float(scores[0, heads.chosen])
    return results


def changed(images: Images, augment: Augment, crop: Crop, rng: torch.Generator) -> Tensor:
    """Central crops of every image, rounded to 8 bits and changed by `augment`: (B, 3, size, size) in [0, 1]."""
    crops = cut(images, crop).mul(255).round().to(torch.uint8)
    sizes = images.sizes.new_full((len(crops), 2), crop.size)
    return augment.whole(Images(crops, sizes), rng)


def view_of(name: str, crop: Crop, rng: torch.Generator) -> View:
    """The view that is the centre crop, or one of the changes, of every image."""
    if name in ("center", "crop"):
        return partial(cut, crop=crop, rng=rng if name == "crop" else None)
    if name == "resized_crop":
        return partial(Augment(crop.size, flip=0.0).view, rng=rng)
    knobs = {"flip": 0.0, "mask_patch": _mask_patch(crop.size), **KNOBS[name]}
    return partial(changed, augment=Augment(crop.size, **knobs), crop=crop, rng=rng)


def _mask_patch(size: int) -> int:
    """The side of the largest patch that tiles the image and is at most an eighth of its side."""
    return max(side for side in range(1, max(1, size // MASK_PATCHES) + 1) if size % side == 0)
