"""DINO: a student matches the sharpened, centred distribution of a slowly moving teacher, without negatives."""

import math
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import gather_no_grad
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.losses import global_feature_std
from ssl_sweep.models.momentum import cosine_momentum, ema_copy, ema_update
from ssl_sweep.models.precision import at_least_fp32, full_precision

GLOBAL = ("first", "second")
BOTTLENECK = 256
LOCAL_SCALE = (0.05, 0.4)  # share of the image's area that a local crop covers

Temperature = Annotated[float, Field(gt=0)]

CHECK = {"knobs": {"prototypes": 64, "hidden_dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """L = mean over teacher views t and student views s ≠ t of −Σ_k P_t(k) · log P_s(k).

    P_s = softmax(g_s(x)/τ_s); P_t = softmax((g_t(x) − c)/τ_t), without gradient, θ_t ← m·θ_t + (1 − m)·θ_s; the
    centre c ← m_c·c + (1 − m_c)·(mean of g_t over the global batch), both after the step. g is the encoder, three
    linear layers with GELU to 256 dimensions, and the cosines to `prototypes` directions. τ_t rises linearly over the
    first part of training, m to 1 by a cosine.

    Preferred to SwAV, which needs Sinkhorn's iterations, and a queue for small batches, to distribute a batch over its
    prototypes; a running mean does this at any batch size.

    *Open*, ours: `local_crops` is 0, where the paper has 8 to 10 crops of 96 pixels beside global ones of 224; small
    images have too few pixels. Local crops have the side of the global ones, so that every encoder accepts them. The
    head has batch normalisation, which the paper's has not for transformers: without it a ResNet's vectors start nearly
    equal and the teacher stays uniform. The paper's global crops cover 0.4 or more of the image
    (views.crop_scale_min). It freezes the prototypes in the first epoch; we do not.

    Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", equations 1 to 4,
    algorithm 1.
    """

    view_recipe = "dino"
    center: Tensor
    progress: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        prototypes: Annotated[int, Field(ge=2, description="dimensions K of the distributions")] = 65536,
        hidden_dim: Annotated[int, Field(ge=1, description="width of the head's two hidden layers")] = 2048,
        student_temperature: Annotated[Temperature, Field(description="temperature τ_s")] = 0.1,
        teacher_temperature: Annotated[Temperature, Field(description="temperature τ_t after its warm-up")] = 0.07,
        teacher_temperature_start: Annotated[Temperature, Field(description="temperature τ_t at the start")] = 0.04,
        teacher_warmup: Annotated[
            float, Field(ge=0, le=1, description="fraction of training over which τ_t rises (30 of 300 epochs)")
        ] = 0.1,
        momentum: Annotated[
            float, Field(ge=0, le=1, description="teacher's momentum at the start; 1 at the end")
        ] = 0.996,
        center_momentum: Annotated[float, Field(ge=0, lt=1, description="momentum m_c of the centre")] = 0.9,
        batch_norm: Annotated[
            bool, Field(description="batch normalisation in the head; none in the paper's transformers")
        ] = True,
        local_crops: Annotated[int, Field(ge=0, description="small crops per image, for the student alone")] = 0,
    ) -> None:
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.teacher_temperature_start, self.teacher_warmup = teacher_temperature_start, teacher_warmup
        self.momentum, self.center_momentum, self.local_crops = momentum, center_momentum, local_crops
        self.encoder = encoder
        self.head = Head(encoder.feature_dim, hidden_dim, prototypes, batch_norm=batch_norm)
        self.teacher = ema_copy(self._student())
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))  # of the last step, in [0, 1]
        self._teacher_mean: Tensor | None = None  # (K,), from the loss to `after_step`

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two global views (B, 3, S, S) in [0, 1] of every image, and the local ones."""
        views = {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}
        if self.local_crops:
            low, high = LOCAL_SCALE
            small = replace(augment, crop_scale_min=low, crop_scale_max=high)
            views |= {name: small.view(images, rng) for name in self._local_names()}
        return views

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy, the relative entropies of the teacher's mean and single distributions, and feature_std.

        The entropies of a teacher with one output for all images are 1 and 1 (uniform) or 0 and 0 (one prototype). For
        a healthy teacher that of the mean is near 1, and that of single images is lower.
        """
        directions = [self.head.directions(self.encoder(batch[name])) for name in (*GLOBAL, *self._local_names())]
        student = [self.head.cosines(z) / self.student_temperature for z in directions]  # (B, K) each
        with torch.no_grad():
            cosines = torch.stack([self.teacher(batch[name]) for name in GLOBAL])  # (2, B, K)
            teacher = ((cosines - self.center) / self._teacher_temperature()).softmax(dim=2)
            self._teacher_mean = _mean_of_all(cosines)
        loss = matching_loss(student, teacher)
        return loss, {
            "teacher_mean_entropy": relative_entropy(_mean_of_all(teacher)),
            "teacher_entropy": relative_entropy(teacher).mean(),
            "feature_std": global_feature_std(torch.cat(directions)),
        }

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher, the centre and the progress."""
        ema_update(self.teacher, self._student(), cosine_momentum(self.momentum, progress))
        if self._teacher_mean is not None:
            self.center.lerp_(self._teacher_mean.to(self.center.dtype), 1 - self.center_momentum)
        self.progress.fill_(progress)

    def _teacher_temperature(self) -> Tensor:
        warmed = torch.clamp(self.progress / max(self.teacher_warmup, 1e-12), max=1)
        start, end = self.teacher_temperature_start, self.teacher_temperature
        return start + (end - start) * warmed if self.teacher_warmup else torch.full_like(warmed, end)

    def _local_names(self) -> list[str]:
        return [f"local{number}" for number in range(self.local_crops)]

    def _student(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.head)


class Head(nn.Module):
    """Features (B, D) -> unit vectors of 256 dimensions -> their cosines (B, K) to K prototypes."""

    def __init__(self, in_dim: int, hidden_dim: int, prototypes: int, *, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for dim in (in_dim, hidden_dim):
            layers += [nn.Linear(dim, hidden_dim, bias=not batch_norm)]
            layers += [nn.BatchNorm1d(hidden_dim)] if batch_norm else []
            layers += [nn.GELU()]
        self.projector = nn.Sequential(*layers, nn.Linear(hidden_dim, BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(prototypes, BOTTLENECK))

    def directions(self, features: Tensor) -> Tensor:
        """Features (B, D) -> unit vectors (B, 256), in fp32 or better."""
        return F.normalize(at_least_fp32(self.projector(features)), dim=1)

    def cosines(self, directions: Tensor) -> Tensor:
        """Unit vectors (B, 256) -> cosines (B, K), in fp32 or better."""
        with full_precision(directions):
            return directions @ F.normalize(at_least_fp32(self.prototypes), dim=1).T

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D) -> cosines (B, K)."""
        return self.cosines(self.directions(features))


def matching_loss(student: list[Tensor], teacher: Tensor) -> Tensor:
    """Mean cross-entropy over the pairs of different views.

    Args:
        student: logits (B, K) of each view, the teacher's views first.
        teacher: probabilities (T, B, K).
    """
    terms = [
        -(probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean()
        for t, probabilities in enumerate(teacher)
        for s, logits in enumerate(student)
        if s != t
    ]
    return torch.stack(terms).mean()


def _mean_of_all(x: Tensor) -> Tensor:
    """Mean over both views of all ranks' images: (2, B, K) -> (K,)."""
    return gather_no_grad(x.mean(dim=(0, 1)).unsqueeze(0)).mean(dim=0)


def relative_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of distributions (..., K) divided by log K: 1 for uniform, 0 for one-hot."""
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return entropy / math.log(probabilities.shape[-1])
