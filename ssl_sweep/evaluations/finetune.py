"""Fine-tuning: the whole encoder and a linear head, trained with labels."""

from typing import Annotated

from pydantic import Field

from ssl_sweep.data.splits import Splits
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.classifier import METRICS, Classifier, TrainingCrop, measure, train
from ssl_sweep.training.loop import Epoch, Stage
from ssl_sweep.training.optimizers import BatchSize, Momentum, Optimizer, Recipe, Schedule, WeightDecay

__all__ = ["METRICS", "evaluate"]

CHECK = {"knobs": {"epochs": 12, "batch_size": 32, "lr": 0.1}}  # suits 160 images


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
) -> dict[str, float]:
    """Top-1 in percent after fine-tuning; by default as Li et al. 2023 (section 4, Table b), without augmentation.

    `top1_*` are the last epoch's. The paper reports the best test epoch, which is chosen on the test images; here
    validation chooses the best epoch, and `top1_best_test` is that epoch's.
    """
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
    )
    classifier = Classifier(encoder, encoder.feature_dim, splits.num_classes)

    def score(epoch: Epoch) -> None:
        stage.report(epoch.metrics | measure(classifier, splits, stage), epoch.number)

    train(classifier, splits.train, splits.image_size, recipe, stage, augment, score)
    return classifier.results()
