"""Fine-tuning: the whole encoder and a linear head, trained with labels."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field

from ssl_sweep.data.splits import Splits
from ssl_sweep.models.drop_path import set_drop_path
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.classifier import METRICS, Classifier, TrainingCrop, measure, train
from ssl_sweep.training.loop import Epoch, Stage
from ssl_sweep.training.optimizers import (
    BatchSize,
    Beta2,
    ClipNorm,
    DecayNormAndBias,
    DecayTokens,
    FinalLr,
    Momentum,
    Nesterov,
    Optimizer,
    Recipe,
    Schedule,
    WarmupEpochs,
    WeightDecay,
)
from ssl_sweep.training.refit import Refit, fit_and_refit
from ssl_sweep.training.tuning import (
    Cutmix,
    DropPath,
    Ema,
    LabelSmoothing,
    LayerDecay,
    Mixup,
    RandAugment,
    Tuning,
)

__all__ = ["METRICS", "evaluate"]

CHECK = {"knobs": {"epochs": 12, "batch_size": 32, "lr": 0.1}}  # suits 160 images


def check_encoder(settings: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse knobs that contradict each other, and stochastic depth of an encoder without it. Raises ValueError."""
    Recipe(**{field.name: settings[field.name] for field in fields(Recipe) if field.name in settings})
    if settings["drop_path"]:
        set_drop_path(encoder, settings["drop_path"])


def evaluate(
    encoder: Encoder,
    splits: Splits,
    stage: Stage,
    *,
    epochs: Annotated[int, Field(ge=1, description="epochs of fine-tuning")] = 20,
    batch_size: BatchSize = 256,
    optimizer: Optimizer = "sgd",
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 0.01,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    schedule: Schedule = "cosine",
    augment: TrainingCrop = "none",
    beta2: Beta2 = 0.999,
    nesterov: Nesterov = False,
    decay_norm_and_bias: DecayNormAndBias = None,
    decay_tokens: DecayTokens = True,
    warmup_epochs: WarmupEpochs = 0.0,
    final_lr: FinalLr = 0.0,
    clip_norm: ClipNorm = None,
    layer_decay: LayerDecay = 1.0,
    drop_path: DropPath = 0.0,
    label_smoothing: LabelSmoothing = 0.0,
    mixup: Mixup = 0.0,
    cutmix: Cutmix = 0.0,
    rand_augment: RandAugment = None,
    ema: Ema = None,
    refit: Refit = False,
) -> dict[str, float]:
    """Top-1 in percent after fine-tuning; by default as Li et al. 2023 (section 4, Table b), without augmentation.

    `top1_*` are the last epoch's. The paper reports the best test epoch, which is chosen on the test images; here
    validation chooses the best epoch, and `top1_best_test` is that epoch's.

    MAE fine-tunes a ViT-B (He et al. 2022, arXiv:2111.06377, table 9) with epochs 100, optimizer adamw, weight_decay
    0.05, decay_norm_and_bias and decay_tokens false, warmup_epochs 5, layer_decay 0.75, drop_path 0.1, label_smoothing
    0.1, mixup 0.8, cutmix 1, augment crop_flip, and RandAugment of magnitude 9 of 10 (here of 30) with noise.

    Raises:
        ValueError: `drop_path` is above 0, and the encoder has no branches that can be dropped.
    """
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        beta2=beta2,
        nesterov=nesterov,
        decay_norm_and_bias=decay_norm_and_bias,
        decay_tokens=decay_tokens,
        warmup_epochs=warmup_epochs,
        final_lr=final_lr,
        clip_norm=clip_norm,
    )
    tuning = Tuning(
        layer_decay=layer_decay,
        drop_path=drop_path,
        label_smoothing=label_smoothing,
        mixup=mixup,
        cutmix=cutmix,
        rand_augment=rand_augment,
        ema=ema,
    )

    return _tuned(encoder, splits, stage, recipe, tuning, augment, refit=refit)


def _tuned(
    encoder: Encoder,
    splits: Splits,
    stage: Stage,
    recipe: Recipe,
    tuning: Tuning,
    augment: TrainingCrop,
    *,
    refit: bool,
) -> dict[str, float]:
    """Train by a recipe, and measure each epoch; `refit`: again on the validation images too."""

    def fitted(used: Splits, _chosen: Mapping[str, float] | None, part: Stage) -> dict[str, float]:
        body = deepcopy(encoder) if refit else encoder
        classifier = Classifier(body, encoder.feature_dim, used.num_classes, tuning)

        def score(epoch: Epoch) -> None:
            part.report(epoch.metrics | measure(classifier, used, part), epoch.number)

        train(classifier, used.train, used.image_size, recipe, part, augment, score)
        return classifier.results()

    return fit_and_refit(fitted, splits, stage, refit=refit, epochs=recipe.num_epochs)
