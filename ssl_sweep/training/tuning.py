"""What makes fine-tuning of transformers work, as in MAE's and BEiT's protocols; nothing of it by default.

Sources: MAE (He et al. 2022, arXiv:2111.06377, table 9) and the papers at each knob.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from ssl_sweep.data.randaugment import LEVELS, apply_randaugment, draw_randaugment
from ssl_sweep.models.depth import layer_numbers
from ssl_sweep.models.encoder import Encoder
from ssl_sweep.training import optimizers
from ssl_sweep.training.optimizers import Recipe

TORCHVISION: Any = v2  # type checkers do not see what it re-exports

LayerDecay = Annotated[
    float,
    Field(gt=0, le=1, description="each layer of the encoder has this share of the next one's rate; 1: all are equal"),
]
DropPath = Annotated[
    float,
    Field(ge=0, lt=1, description="stochastic depth of a transformer's last block; linearly less in earlier blocks"),
]
LabelSmoothing = Annotated[float, Field(ge=0, lt=1, description="share of a label that is spread over all classes")]
Mixup = Annotated[
    float, Field(ge=0, description="mixup: α of the share's Beta(α, α) by which a batch is overlaid; 0: none")
]
Cutmix = Annotated[
    float,
    Field(ge=0, description="cutmix: α of the pasted area's Beta(α, α); 0: none; with mixup, each batch draws one"),
]
RandAugment = Annotated[
    int | None,
    Field(ge=0, le=LEVELS, description="RandAugment: magnitude of 30 of two operators an image; null: none"),
]
Ema = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="measure a moving average of the weights with this momentum, lower in the first steps; null: none",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The knobs of fine-tuning; by default it is plain."""

    layer_decay: LayerDecay = 1.0
    drop_path: DropPath = 0.0
    label_smoothing: LabelSmoothing = 0.0
    mixup: Mixup = 0.0
    cutmix: Cutmix = 0.0
    rand_augment: RandAugment = None
    ema: Ema = None

    def augmented(self, images: Tensor, labels: Tensor, num_classes: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) in [0, 1] and labels (B,) of a training step, changed; mixed labels are (B, classes)."""
        if self.rand_augment is not None:
            drawn = draw_randaugment(len(images), rng, self.rand_augment, images.shape[-1])
            images = apply_randaugment(images, *drawn).contiguous(memory_format=torch.channels_last)
        if self.mixup or self.cutmix:
            images, labels = _mixed(images, labels, num_classes, self.mixup, self.cutmix, rng)
        return images, labels

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, classes) with labels (B,), or shares of classes (B, classes)."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def _mixed(
    images: Tensor, labels: Tensor, num_classes: int, mixup: float, cutmix: float, rng: Generator
) -> tuple[Tensor, Tensor]:
    """torchvision's MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch with itself, shifted by one."""
    kinds = [kind for kind, alpha in ((TORCHVISION.MixUp, mixup), (TORCHVISION.CutMix, cutmix)) if alpha]
    alphas = [alpha for alpha in (mixup, cutmix) if alpha]
    choice, seed = torch.randint(2**31, (2,), generator=rng, device=rng.device).tolist()
    chosen = choice % len(kinds)
    mix = kinds[chosen](alpha=alphas[chosen], num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torchvision draws from it alone
        images, labels = mix(images, labels)
    return images.contiguous(memory_format=torch.channels_last), labels


def decayed_groups(classifier: nn.Module, encoder: Encoder, recipe: Recipe, decay: float) -> list[dict[str, Any]]:
    """The optimiser's groups of a classifier whose `body` is the encoder, each layer with its own peak learning rate.

    Layer i of L has decay^(L + 1 − i) of the peak, the classifier's head all of it (Bao et al. 2022, arXiv:2106.08254,
    section 3.1; Clark et al. 2020, arXiv:2003.10555).
    """
    numbers, last = layer_numbers(encoder)
    shares = {f"body.{name}": decay ** (last - number) for name, number in numbers.items()}
    return optimizers.parameter_groups(classifier, recipe, lambda name: shares.get(name, 1.0))


def groups_of(
    classifier: nn.Module, encoder: nn.Module, recipe: Recipe, tuning: Tuning
) -> Callable[[], list[dict[str, Any]]] | None:
    """A function that returns `decayed_groups`, or None where all layers have the same rate."""
    if tuning.layer_decay == 1 or not isinstance(encoder, Encoder):
        return None
    return partial(decayed_groups, classifier, encoder, recipe, tuning.layer_decay)
