"""Fine-tuning: the whole encoder and a linear head, trained with labels."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ssl_sweep.classifier import METRICS, Classifier
from ssl_sweep.data.splits import Splits
from ssl_sweep.features import batches, inputs
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.optimizers import Recipe
from ssl_sweep.training import Epoch, Stage, fit

__all__ = ["METRICS", "evaluate"]


def evaluate(
    encoder: Encoder,
    splits: Splits,
    stage: Stage,
    *,
    epochs: Annotated[int, Field(ge=1, description="epochs of fine-tuning")] = 20,
    batch_size: Annotated[int, Field(ge=2, description="images a step")] = 256,
    optimizer: Annotated[Literal["sgd", "adamw", "lars"], Field(description="optimiser")] = "sgd",
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 0.01,
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum")] = 0.9,
    weight_decay: Annotated[float, Field(ge=0, description="weight decay")] = 1e-4,
    schedule: Annotated[Literal["cosine", "constant", "step"], Field(description="learning rate schedule")] = "cosine",
) -> dict[str, float]:
    """Top-1 in percent after fine-tuning without augmentation in training or test (Li et al. 2023, section 4, Table b).

    The paper reports its best test epoch: that is `top1_best_test`; the last epoch is `top1_test`.
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
    classifier.to(stage.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(indices: Tensor, _rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return classifier.loss(*inputs(splits.train, indices, splits.image_size, stage)), {}

    def score(epoch: Epoch) -> None:
        with stage.autocast():
            scores = classifier.score(*(batches(pack, splits.image_size, stage) for pack in (splits.val, splits.test)))
        stage.report(epoch.metrics | scores, epoch.number)

    fit(classifier, loss, len(splits.train), recipe, stage, score)
    return classifier.results()
