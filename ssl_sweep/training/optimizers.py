"""Optimisers, parameter groups and learning-rate schedules of a training run."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.training.declarations import TrainingDeclarations, declared

# knobs that pretraining shares with the evaluations that train something
BatchSize = Annotated[int, Field(ge=2, description="images per step; in pretraining those of all workers")]
Optimizer = Annotated[Literal["sgd", "adamw", "lars"], Field(description="optimiser")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="momentum of sgd and lars; beta1 of adamw")]
WeightDecay = Annotated[float, Field(ge=0, description="weight decay")]
Schedule = Annotated[
    Literal["cosine", "constant", "step"], Field(description="course of the learning rate after any warm-up")
]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training run; the defaults are the overlay paper's pretraining (Li et al. 2023, Table a)."""

    epochs: Annotated[int, Field(ge=0, description="passes over the training set")] = 50
    batch_size: BatchSize = 256
    optimizer: Optimizer = "sgd"
    lr: Annotated[float, Field(gt=0, description="peak learning rate, before `lr_scaling`")] = 0.05
    lr_scaling: Annotated[
        Literal["none", "linear", "sqrt"],
        Field(description="multiply lr by batch/256 (linear), by the square root of the batch (sqrt), or by 1 (none)"),
    ] = "none"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 1e-4
    decay_norm_and_bias: Annotated[
        bool, Field(description="apply weight decay to normalisation and bias parameters too, as plain SGD recipes do")
    ] = True
    schedule: Schedule = "cosine"
    milestones: Annotated[
        tuple[float, ...], Field(description="step schedule: lr x 0.1 at each of these fractions of the run")
    ] = (0.6, 0.8)
    warmup_epochs: Annotated[float, Field(ge=0, description="linear warm-up from 0, in epochs")] = 0.0
    clip_norm: Annotated[float | None, Field(gt=0, description="clip the gradient to this L2 norm")] = None
    sync_batchnorm: Annotated[
        bool,
        Field(
            description="with several workers, use batch statistics of the whole batch, so that results do not depend "
            "on their number; false: those of each worker's share"
        ),
    ] = True

    @property
    def peak_lr(self) -> float:
        """Learning rate after scaling (linear: Goyal et al. 2017; square root: Chen et al. 2020, B.1)."""
        factor = {"none": 1.0, "linear": self.batch_size / 256, "sqrt": math.sqrt(self.batch_size)}
        return self.lr * factor[self.lr_scaling]

    def lr_factor(self, progress: float, warmup: float) -> float:
        """Learning rate over its peak at `progress` in [0, 1] of the run; `warmup` is the share that is warm-up."""
        if progress < warmup:
            return progress / warmup
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "step":
            return float(0.1 ** sum(progress >= milestone for milestone in self.milestones))
        remaining = (progress - warmup) / max(1 - warmup, 1e-12)
        return 0.5 * (1 + math.cos(math.pi * remaining))


class Lars(torch.optim.SGD):
    """SGD with layer-wise adaptive rates (You, Gitman & Ginsburg 2017, arXiv:1708.03888, eq. 6).

    The rate of a weight matrix is scaled by `trust * |w| / (|g| + decay * |w|)`; that of vectors (bias, norm) is not.
    """

    TRUST = 0.001

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Scale each gradient with its weight decay, then take torch's SGD step without weight decay."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._adapt(parameter, decay)
            group["weight_decay"] = 0.0
        try:
            result: float | None = super().step(closure)
            return result
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay

    def _adapt(self, parameter: Tensor, decay: float) -> None:
        gradient = parameter.grad
        assert gradient is not None  # noqa: S101 - the caller has checked it; for the type checker
        weight_norm, gradient_norm = parameter.norm(), gradient.norm()
        gradient.add_(parameter, alpha=decay)
        if parameter.ndim > 1:
            trust = self.TRUST * weight_norm / (gradient_norm + decay * weight_norm + 1e-12)
            gradient.mul_(torch.where(weight_norm * gradient_norm > 0, trust, torch.ones_like(trust)))


def build(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the model's trainable parameters.

    A model may declare `constant_lr` (SimSiam's predictor) or `parameter_groups` (the heads of a probe).
    """
    own_groups = declared(TrainingDeclarations, model).parameter_groups
    groups = parameter_groups(model, recipe) if own_groups is None else own_groups()
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(recipe.momentum, 0.999))
    optimizer = Lars if recipe.optimizer == "lars" else torch.optim.SGD
    return optimizer(groups, lr=recipe.peak_lr, momentum=recipe.momentum)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Trainable parameters by (decayed, constant learning rate); empty groups are left out."""
    constant = declared(TrainingDeclarations, model).constant_lr
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in _trainable(model):
        decayed = recipe.decay_norm_and_bias or parameter.ndim > 1
        fixed = name.startswith(tuple(f"{module}." for module in constant)) if constant else False
        groups.setdefault((decayed, fixed), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": recipe.weight_decay if decayed else 0.0, "constant_lr": fixed}
        for (decayed, fixed), parameters in groups.items()
    ]


def set_lr(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    """Set every group's learning rate for a step at `progress` in [0, 1]."""
    warmup = recipe.warmup_epochs / recipe.epochs
    factor = recipe.lr_factor(progress, warmup)
    for group in optimizer.param_groups:
        group["lr"] = group.get("peak_lr", recipe.peak_lr) * (1.0 if group["constant_lr"] else factor)


def _trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
