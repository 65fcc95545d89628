"""Optimisers, parameter groups and learning-rate schedules of a training run."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.training.declarations import TrainingDeclarations, declared

# names of a transformer's tokens and positions, in our encoders and decoders, in torchvision and in timm
TOKENS = (
    "class_token", "cls_token", "dist_token", "reg_token", "mask_token", "positions", "pos_embed", "pos_embedding",
)  # fmt: skip
EPOCHS_OF_STEPS = 20  # at most, of a run that is given in steps

# knobs that pretraining shares with the evaluations that train something
BatchSize = Annotated[int, Field(ge=2, description="images per step; in pretraining those of all workers")]
Optimizer = Annotated[Literal["sgd", "adamw", "lars"], Field(description="optimiser")]
Momentum = Annotated[float, Field(ge=0, lt=1, description="momentum of sgd and lars; beta1 of adamw")]
WeightDecay = Annotated[float, Field(ge=0, description="weight decay")]
Beta2 = Annotated[float, Field(ge=0, lt=1, description="beta2 of adamw")]
Nesterov = Annotated[bool, Field(description="Nesterov's momentum, for sgd and lars")]
DecayNormAndBias = Annotated[
    bool | None,
    Field(
        description="apply weight decay to normalisation and bias parameters too, as plain SGD recipes do; "
        "null: not with lars"
    ),
]
DecayTokens = Annotated[
    bool, Field(description="apply weight decay to a transformer's class token, mask tokens and positions too")
]
FinalLr = Annotated[float, Field(ge=0, le=1, description="cosine: learning rate at the end, as a share of its peak")]
ClipNorm = Annotated[float | None, Field(gt=0, description="clip the gradient to this L2 norm")]
WarmupEpochs = Annotated[float, Field(ge=0, description="linear warm-up from 0, in epochs")]
Schedule = Annotated[
    Literal["cosine", "constant", "step"], Field(description="course of the learning rate after any warm-up")
]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training run; the defaults are the overlay paper's pretraining (Li et al. 2023, Table a)."""

    epochs: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Field(description="passes over the images that are trained on; null with `steps`, which replaces it"),
    ] = 50
    steps: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="length in steps in place of epochs, as for sets of unequal size; null: `epochs`"),
    ] = None
    epoch_steps: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(
            description="with `steps`, how many of them are an epoch: of reports, health, pruners and warm-up; null: a "
            "twentieth of all"
        ),
    ] = None
    batch_size: BatchSize = 256
    optimizer: Optimizer = "sgd"
    lr: Annotated[float, Field(gt=0, description="peak learning rate, before `lr_scaling`")] = 0.05
    lr_scaling: Annotated[
        Literal["none", "linear", "sqrt"],
        Field(description="multiply lr by batch/256 (linear), by the square root of the batch (sqrt), or by 1 (none)"),
    ] = "none"
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 1e-4
    final_weight_decay: Annotated[
        float | None, Field(ge=0, description="weight decay at the end, approached by a cosine; null: constant")
    ] = None
    decay_norm_and_bias: DecayNormAndBias = None
    decay_tokens: DecayTokens = True
    beta2: Beta2 = 0.999
    nesterov: Nesterov = False
    bias_lr: Annotated[
        float | None,
        Field(
            gt=0,
            description="peak learning rate of normalisation and bias parameters, before `lr_scaling`; null: lr",
        ),
    ] = None
    schedule: Schedule = "cosine"
    milestones: Annotated[
        tuple[float, ...], Field(description="step schedule: lr x 0.1 at each of these fractions of the run")
    ] = (0.6, 0.8)
    final_lr: FinalLr = 0.0
    warmup_epochs: WarmupEpochs = 0.0
    clip_norm: ClipNorm = None
    sync_batchnorm: Annotated[
        bool,
        Field(
            description="with several workers, use batch statistics of the whole batch, so that results do not depend "
            "on their number; false: those of each worker's share"
        ),
    ] = True

    def __post_init__(self) -> None:
        """Raise ValueError if the settings do not fit together: of `epochs` and `steps` exactly one is given."""
        if self.nesterov and self.optimizer == "adamw":
            raise ValueError("nesterov: adamw has no such momentum; set nesterov to false, or optimizer to sgd or lars")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum above 0; set momentum, or nesterov to false")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"epochs {self.epochs} and steps {self.steps} are both given; set one of them to null")
        if self.steps is None and self.epochs is None:
            raise ValueError("epochs and steps are both null; give one of them")
        if self.steps is None and self.epoch_steps is not None:
            raise ValueError(f"epoch_steps {self.epoch_steps} has no effect without steps; set it to null")

    @property
    def num_epochs(self) -> int:
        """The number of epochs: of passes over the images, or of `epoch_steps` steps each, the last one maybe fewer."""
        return num_epochs(vars(self))

    def epoch_length(self, pass_steps: int) -> int:
        """Steps of an epoch; `pass_steps` are those of a pass over the images."""
        return pass_steps if self.steps is None else epoch_steps(self.steps, self.epoch_steps)

    def passes(self, pass_steps: int) -> float:
        """Passes over the images in the whole run. Exactly the same for as many steps, given by epochs or by steps."""
        return float(self.epochs or 0) if self.steps is None else self.steps / pass_steps

    def total_steps(self, pass_steps: int) -> int:
        """Steps of the whole run."""
        return (self.epochs or 0) * pass_steps if self.steps is None else self.steps

    @property
    def warmup(self) -> float:
        """The share of the run that is warm-up."""
        if self.steps is None:
            return self.warmup_epochs / (self.epochs or 1)
        return self.warmup_epochs * epoch_steps(self.steps, self.epoch_steps) / self.steps

    @property
    def peak_lr(self) -> float:
        """Learning rate after scaling (linear: Goyal et al. 2017; square root: Chen et al. 2020, B.1)."""
        return self.lr * self._lr_scale

    @property
    def peak_bias_lr(self) -> float:
        """Learning rate of normalisation and bias parameters after scaling."""
        return self.peak_lr if self.bias_lr is None else self.bias_lr * self._lr_scale

    @property
    def _lr_scale(self) -> float:
        return {"none": 1.0, "linear": self.batch_size / 256, "sqrt": math.sqrt(self.batch_size)}[self.lr_scaling]

    @property
    def decays_norm_and_bias(self) -> bool:
        """What `decay_norm_and_bias` means: where it is null, all optimisers but lars decay them."""
        return self.optimizer != "lars" if self.decay_norm_and_bias is None else self.decay_norm_and_bias

    def decay_at(self, progress: float) -> float:
        """Weight decay at `progress` in [0, 1] of the run (Caron et al. 2021, arXiv:2104.14294: 0.04 to 0.4)."""
        if self.final_weight_decay is None:
            return self.weight_decay
        return _cosine(self.weight_decay, self.final_weight_decay, progress)

    def lr_factor(self, progress: float, warmup: float) -> float:
        """Learning rate over its peak at `progress` in [0, 1] of the run; `warmup` is the share that is warm-up."""
        if progress < warmup:
            return progress / warmup
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "step":
            return float(0.1 ** sum(progress >= milestone for milestone in self.milestones))
        remaining = (progress - warmup) / max(1 - warmup, 1e-12)
        return _cosine(1.0, self.final_lr, remaining)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def epoch_steps(steps: int, given: int | None) -> int:
    """Steps of an epoch of a run that is given in steps: `given`, or a twentieth."""
    return given or math.ceil(steps / EPOCHS_OF_STEPS)


def num_epochs(settings: Mapping[str, Any]) -> int:
    """`Recipe.num_epochs` of the settings of a recipe."""
    if (steps := settings.get("steps")) is None:
        return int(settings["epochs"])
    return math.ceil(int(steps) / epoch_steps(steps, settings["epoch_steps"]))


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
        return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(recipe.momentum, recipe.beta2))
    optimizer = Lars if recipe.optimizer == "lars" else torch.optim.SGD
    return optimizer(groups, lr=recipe.peak_lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def parameter_groups(
    model: nn.Module, recipe: Recipe, rate_of: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters by (decayed, constant learning rate, peak learning rate); empty groups are left out.

    rate_of: a parameter's name -> the share of the peak learning rate that it has.
    """
    constant = declared(TrainingDeclarations, model).constant_lr
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in _trainable(model):
        fixed = name.startswith(tuple(f"{module}." for module in constant)) if constant else False
        peak = (recipe.peak_lr if parameter.ndim > 1 else recipe.peak_bias_lr) * rate_of(name)
        groups.setdefault((_is_decayed(name, parameter, recipe), fixed, peak), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "decayed": decayed,
            "constant_lr": fixed,
            "peak_lr": peak,
        }
        for (decayed, fixed, peak), parameters in groups.items()
    ]


def _is_decayed(name: str, parameter: Tensor, recipe: Recipe) -> bool:
    if name.rpartition(".")[2] in TOKENS:
        return recipe.decay_tokens
    return parameter.ndim > 1 or recipe.decays_norm_and_bias


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    """Set every group's learning rate, and a scheduled weight decay, for a step at `progress` in [0, 1]."""
    factor = recipe.lr_factor(progress, recipe.warmup)
    for group in optimizer.param_groups:
        # the groups of older checkpoints have no rate of their own
        group["lr"] = group.get("peak_lr", recipe.peak_lr) * (1.0 if group["constant_lr"] else factor)
        if recipe.final_weight_decay is not None and group["decayed"]:
            group["weight_decay"] = recipe.decay_at(progress)


def _trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
