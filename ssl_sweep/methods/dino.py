"""DINO: a student matches the sharpened, centred distribution of a slowly moving teacher, without negatives."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.mask import draw_blocks
from ssl_sweep.data.multi_crop import SIDE, local_augment, local_views
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import gather_no_grad
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.losses import cross_view_loss, global_feature_std, relative_entropy
from ssl_sweep.models.momentum import EncoderOf, cosine_momentum, ema_copy, ema_update
from ssl_sweep.models.precision import at_least_fp32, full_precision
from ssl_sweep.models.sides import nearby_side
from ssl_sweep.models.vit import ViTEncoder

GLOBAL = ("first", "second")
BOTTLENECK = 256
LOCAL_SCALE = (0.05, 0.4)  # share of the image's area that a local crop covers

Temperature = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]

CHECK = {"knobs": {"prototypes": 64, "hidden_dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """L = mean over teacher views t and student views s ≠ t of −Σ_k P_t(k) · log P_s(k).

    P_s = softmax(g_s(x)/τ_s); P_t = softmax((g_t(x) − c)/τ_t), without gradient, θ_t ← m·θ_t + (1 − m)·θ_s; the
    centre c ← m_c·c + (1 − m_c)·(mean of g_t over the global batch), both after the step. g is the encoder, three
    linear layers with GELU to 256 dimensions, and the cosines to `prototypes` directions. τ_t rises linearly over the
    first part of training, m to 1 by a cosine.

    With `patch_weight` w > 0, iBOT's masked-patch loss is added. Blocks of patches of the student's global views become
    a learned token, and at these places the student matches the teacher, which sees all patches, by the same head:
    w · mean over global views u and images of −(1/M) Σ_masked Σ_k P_t(u)_k · log P_s(û)_k, M the number of an image's
    masked patches. The patches have a centre of their own.

    *Open*, ours: `local_crops` is 0, where the paper has 8 to 10 crops of 96 pixels beside global ones of 224; small
    images have too few pixels. The head has batch normalisation, which the paper's has not for transformers: without it
    a ResNet's vectors start nearly equal and the teacher stays uniform. The paper's global crops cover 0.4 or more of
    the image (views.crop_scale_min). It freezes the prototypes in the first epoch; we do not. Its weight decay rises
    from 0.04 to 0.4 (pretrain.weight_decay, pretrain.final_weight_decay), and its lr ends at 1e-6 (pretrain.final_lr).

    Source: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", equations 1 to 4,
    algorithm 1; Zhou et al. 2022, "iBOT: Image BERT Pre-Training with Online Tokenizer", equations 2 and 3.

    Raises:
        ValueError: the encoder takes no images of the local crops' side, or `patch_weight` is above 0 and it is no
            vision transformer.
    """

    view_recipe = "dino"
    center: Tensor
    patch_center: Tensor
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
        local_side: Annotated[
            float,
            Field(gt=0, le=1, description="side of a local crop over a global one's; a ViT's is of whole patches"),
        ] = SIDE,
        local_blur: Annotated[
            float | None,
            Field(ge=0, le=1, description="blur of local crops, if views blur at all; null: as of first views"),
        ] = 0.5,
        local_solarize: Annotated[
            float | None, Field(ge=0, le=1, description="solarisation of local crops; null: as of first views")
        ] = 0.0,
        patch_weight: Annotated[
            float, Field(ge=0, description="weight w of iBOT's masked-patch loss, of vision transformers; iBOT: 1")
        ] = 0.0,
        patch_mask_min: Annotated[
            Share, Field(description="smallest masked share of a global view; half of the views have no mask")
        ] = 0.1,
        patch_mask_max: Annotated[Share, Field(description="largest masked share of a global view")] = 0.5,
        encoder_of: EncoderOf = "teacher",
    ) -> None:
        super().__init__()
        self.encoder_of, self.local_blur, self.local_solarize = encoder_of, local_blur, local_solarize
        self.patch_weight, self.patch_mask = patch_weight, (patch_mask_min, patch_mask_max)
        _check_patches(encoder, patch_weight, self.patch_mask)
        self.local_side = _local_side(encoder, local_side) if local_crops else encoder.image_size
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.teacher_temperature_start, self.teacher_warmup = teacher_temperature_start, teacher_warmup
        self.momentum, self.center_momentum, self.local_crops = momentum, center_momentum, local_crops
        self.encoder = encoder
        self.head = Head(encoder.feature_dim, hidden_dim, prototypes, batch_norm=batch_norm)
        self.teacher = ema_copy(self._student())
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))  # of the last step, in [0, 1]
        self._teacher_mean: Tensor | None = None  # (K,), from the loss to `after_step`
        self._patch_mean: Tensor | None = None  # (K,), likewise
        if patch_weight:
            self.mask_token = nn.Parameter(torch.empty(encoder.feature_dim).normal_(std=0.02))
            self.register_buffer("patch_center", torch.zeros(prototypes))

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two global views (B, 3, S, S) in [0, 1] of every image, local ones (B, 3, s, s), patches' masks (B, N)."""
        views = {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}
        if self.local_crops:
            small = local_augment(
                augment, self.local_side, LOCAL_SCALE, blur=self.local_blur, solarize=self.local_solarize
            )
            views |= local_views(images, small, self.local_crops, rng)
        if self.patch_weight:
            side = self.encoder.map_shape[1]
            views |= {f"{name}_mask": images.sampler(rng)(draw_blocks, side, *self.patch_mask) for name in GLOBAL}
        return views

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, the relative entropies of the teacher's mean and single distributions, feature_std, the patch loss.

        The entropies of a teacher with one output for all images are 1 and 1 (uniform) or 0 and 0 (one prototype). For
        a healthy teacher that of the mean is near 1, and that of single images is lower.
        """
        tokens = [self._masked_tokens(batch, name) for name in GLOBAL] if self.patch_weight else []
        features = [self._pooled(each) for each in tokens] or [self.encoder(batch[name]) for name in GLOBAL]
        features += [self.encoder(batch[name]) for name in self._local_names()]
        directions = [self.head.directions(each) for each in features]
        student = [self.head.cosines(z) / self.student_temperature for z in directions]  # (B, K) each
        with torch.no_grad():
            seen = [self._teacher_tokens(batch[name]) for name in GLOBAL] if self.patch_weight else []
            teacher_features = [self._pooled(each) for each in seen] or [
                self.teacher[0](batch[name]) for name in GLOBAL
            ]
            cosines = torch.stack([self.teacher[1](each) for each in teacher_features])  # (2, B, K)
            teacher = ((cosines - self.center) / self._teacher_temperature()).softmax(dim=2)
            self._teacher_mean = _mean_of_all(cosines)
        loss, scalars = cross_view_loss(student, teacher), {}
        if self.patch_weight:
            patch_loss = self._patch_loss(tokens, seen, [batch[f"{name}_mask"] for name in GLOBAL])
            loss, scalars = loss + self.patch_weight * patch_loss, {"patch_loss": patch_loss.detach()}
        return loss, {
            "teacher_mean_entropy": relative_entropy(_mean_of_all(teacher)),
            "teacher_entropy": relative_entropy(teacher).mean(),
            "feature_std": global_feature_std(torch.cat(directions)),
            **scalars,
        }

    def evaluated(self) -> nn.Sequential:
        """The encoder that is evaluated, and its head."""
        return self.teacher if self.encoder_of == "teacher" else self._student()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher, the centres and the progress."""
        ema_update(self.teacher, self._student(), cosine_momentum(self.momentum, progress))
        if self._teacher_mean is not None:
            self.center.lerp_(self._teacher_mean.to(self.center.dtype), 1 - self.center_momentum)
        if self._patch_mean is not None:
            self.patch_center.lerp_(self._patch_mean.to(self.patch_center.dtype), 1 - self.center_momentum)
        self.progress.fill_(progress)

    def _masked_tokens(self, batch: dict[str, Tensor], name: str) -> Tensor:
        """The student's tokens (B, 1 + N, D) of a global view with its mask."""
        assert isinstance(self.encoder, ViTEncoder)  # noqa: S101 - the constructor has checked it
        return self.encoder.encode(self.encoder.embed(batch[name], batch[f"{name}_mask"], self.mask_token))

    def _teacher_tokens(self, view: Tensor) -> Tensor:
        tokens: Tensor = self.teacher[0].tokens(view)  # type: ignore[operator]
        return tokens

    def _pooled(self, tokens: Tensor) -> Tensor:
        assert isinstance(self.encoder, ViTEncoder)  # noqa: S101
        return self.encoder.pooled(tokens)

    def _patch_loss(self, student: list[Tensor], teacher: list[Tensor], masks: list[Tensor]) -> Tensor:
        """iBOT's loss of the tokens (B, 1 + N, D) of both global views, masked (B, N); keeps the teacher's mean."""
        losses, means = [], []
        for own, target, mask in zip(student, teacher, masks, strict=True):
            # the head sees all patches, so that its batch statistics are those of equal shares on every rank
            directions = self.head.directions(own[:, 1:].flatten(0, 1))  # (B·N, 256)
            with torch.no_grad():
                target_head: Head = self.teacher[1]  # type: ignore[assignment]
                targets = target_head.directions(target[:, 1:].flatten(0, 1))
                means.append(target_head.cosines(targets.mean(dim=0, keepdim=True)))  # the mean of cosines is linear
                rows = mask.flatten().nonzero().squeeze(1)  # (M,)
                cosines = target_head.cosines(targets[rows])  # (M, K)
                probabilities = ((cosines - self.patch_center) / self._teacher_temperature()).softmax(dim=1)
                counts = mask.sum(dim=1, keepdim=True).expand_as(mask).flatten()[rows]  # (M,), of the row's image
            logits = self.head.cosines(directions[rows]) / self.student_temperature
            entropies = -(probabilities * logits.log_softmax(dim=1)).sum(dim=1)  # (M,)
            losses.append((entropies / counts).sum() / len(mask))
        self._patch_mean = gather_no_grad(torch.cat(means).mean(dim=0, keepdim=True)).mean(dim=0)
        return torch.stack(losses).mean()

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


def _local_side(encoder: Encoder, share: float) -> int:
    try:
        return nearby_side(encoder, share)
    except ValueError as error:
        words = "gives local crops that the encoder cannot see"
        raise ValueError(f"local_side: {share} {words}: {error}; use a larger one, or 1") from error


def _check_patches(encoder: Encoder, weight: float, shares: tuple[float, float]) -> None:
    if weight and not isinstance(encoder, ViTEncoder):
        kind = type(encoder).__name__
        raise ValueError(f"patch_weight: {kind} has no patch tokens; use vit_tiny, vit_small or vit_base, or 0")
    if shares[0] > shares[1]:
        raise ValueError(f"patch_mask_min: {shares[0]} is above patch_mask_max {shares[1]}; lower it")


def _mean_of_all(x: Tensor) -> Tensor:
    """Mean over both views of all ranks' images: (2, B, K) -> (K,)."""
    return gather_no_grad(x.mean(dim=(0, 1)).unsqueeze(0)).mean(dim=0)
