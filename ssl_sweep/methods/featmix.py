"""Random image masking and in-batch feature mixing on top of BYOL or SimSiam."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images, RowSampler
from ssl_sweep.data.mask import MaskFill, draw_fill, draw_mask
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import gather
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import cosine, global_feature_std
from ssl_sweep.models.momentum import EncoderOf, cosine_momentum, ema_copy, ema_update

VIEWS = ("first", "second")
CHECK = {"knobs": {"hidden_dim": 128, "dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """Predict the clean other view from a masked one, and mixed targets from mixed features: L(q, z) + w·L(q̃, z̃).

    q = predictor(projector(f(masked view))), z = sg projector'(f'(other view)), in both directions. L is the base's:
    Σ (2 − 2·cos) with f' BYOL's moving average, or −½·Σ cos with f' = f as in SimSiam. The mixture is
    h̃ = λ·h + (1 − λ)·h_π of features or projections, with targets mixed in the same way, π a permutation of the batch,
    and λ the larger of λ' and 1 − λ', λ' ~ Beta(α, α) for each image.

    This is an interpretation. Source: Li & Yin 2024, "Random image masking and in-batch feature mixing for
    self-supervised learning", of which we have only the abstract: views are masked, and the features of a batch are
    mixed to virtual positives. All else is ours, including every default. Bases: Grill et al. 2020 (BYOL), Chen & He
    2021 (SimSiam). Related: `mix_site` image is Un-Mix (Shen et al. 2022), where the online images are mixed with the
    reversed batch and the loss is λ·L(q̃, z) + (1 − λ)·L(q̃, z_π); `target` maximum is MixSiam (Guo et al. 2021), the
    elementwise maximum of both views' target projections.
    """

    view_recipe = "byol"

    def __init__(
        self,
        encoder: Encoder,
        *,
        base: Annotated[
            Literal["byol", "simsiam"], Field(description="method whose loss and networks are used")
        ] = "byol",
        mask_ratio: Annotated[float, Field(ge=0, le=0.95, description="masked share of the online view")] = 0.3,
        mask_grid: Annotated[int, Field(ge=1, description="patches of the mask along a side of the view")] = 8,
        mask_fill: Annotated[
            MaskFill,
            Field(description="content of masked places: black, the view's mean colour, or another image's view"),
        ] = "mean",
        mix_weight: Annotated[float, Field(ge=0, description="weight w of the mixture's loss; 0: no mixing")] = 1.0,
        mix_site: Annotated[
            Literal["feature", "projection", "image"], Field(description="quantity that is mixed; image is Un-Mix")
        ] = "feature",
        mix_alpha: Annotated[float, Field(ge=0.1, description="α of the mixing share's Beta(α, α)")] = 1.0,
        target: Annotated[
            Literal["view", "maximum"], Field(description="prediction target: the other view, or MixSiam's maximum")
        ] = "view",
        momentum: Annotated[
            float, Field(ge=0, le=1, description="byol: target's momentum at the start; 1 at the end")
        ] = 0.99,
        hidden_dim: Annotated[
            int | None, Field(ge=1, description="projector's width; null: byol 4096, simsiam 2048")
        ] = None,
        dim: Annotated[
            int | None, Field(ge=1, description="dimensions of the projection; null: byol 256, simsiam 2048")
        ] = None,
        predictor_dim: Annotated[
            int | None, Field(ge=1, description="predictor's hidden width; null: byol 4096, simsiam 512")
        ] = None,
        projection_layers: Annotated[
            int | None, Field(ge=1, le=4, description="projector's linear layers; null: byol 2, simsiam 3")
        ] = None,
        encoder_of: EncoderOf = "student",
    ) -> None:
        super().__init__()
        if encoder_of == "teacher" and base == "simsiam":
            raise ValueError("encoder_of: simsiam has no moving average; use student, or base: byol")
        self.base, self.momentum, self.target, self.encoder_of = base, momentum, target, encoder_of
        self.mask_ratio, self.mask_grid, self.mask_fill = mask_ratio, mask_grid, mask_fill
        self.mix_weight, self.mix_site, self.mix_alpha = mix_weight, mix_site, mix_alpha
        byol = base == "byol"
        dim = dim or (256 if byol else 2048)
        self.encoder = encoder
        self.projector = mlp(
            encoder.feature_dim,
            hidden_dim or (4096 if byol else 2048),
            dim,
            layers=projection_layers or (2 if byol else 3),
            batch_norm=True,
            last_norm="none" if byol else "plain",
        )
        self.predictor = mlp(dim, predictor_dim or (4096 if byol else 512), dim, batch_norm=True)
        self.constant_lr = () if byol else ("predictor",)
        self.average = ema_copy(self._online()) if byol else None

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S), the same masked, and for the mixture each image's `partner` and own `share` (B,).

        Partners are rows of the whole batch.
        """
        if images.shard is not None and self.mask_ratio and self.mask_fill == "other":  # shows other images' views
            return {name: images.local_rows(x) for name, x in self.views(images.global_batch(), augment, rng).items()}
        sample = images.sampler(rng)
        batch = {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}
        if self.mask_ratio:
            batch |= {f"{view}_masked": self._mask(batch[view], sample) for view in VIEWS}
        if self.mix_weight:
            share = sample(draw_symmetric_beta, self.mix_alpha)
            batch["share"] = torch.maximum(share, 1 - share)
            batch["partner"] = sample(self._draw_partners)
        return batch

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The base's loss and the weighted mixture's, the mean similarities of predictions and targets, feature_std."""
        features = [self.encoder(batch.get(f"{view}_masked", batch[view])) for view in VIEWS]  # (B, F) each
        projections = [self.projector(h) for h in features]  # (B, dim) each
        clean = self._target_features(batch, features)
        targets = self._target_projections(clean)
        similarity = self._similarity(projections, self._crossed(targets))  # (2, B)
        loss = self._distance(similarity)
        spread = global_feature_std(torch.cat(projections))
        scalars = {"positive_similarity": similarity.detach().mean(), "feature_std": spread}
        if self.mix_weight:
            mixed = self._mixed_similarity(batch, features, projections, clean, targets)
            loss = loss + self.mix_weight * self._distance(mixed)
            scalars["mixed_similarity"] = mixed.detach().mean()
        return loss, scalars

    def evaluated(self) -> nn.Sequential:
        """The encoder that is evaluated, and its projector."""
        return self.average if self.average is not None and self.encoder_of == "teacher" else self._online()

    def after_step(self, progress: float) -> None:
        """BYOL: move the target network."""
        if self.average is not None:
            ema_update(self.average, self._online(), cosine_momentum(self.momentum, progress))

    def _mixed_similarity(
        self,
        batch: dict[str, Tensor],
        features: list[Tensor],
        projections: list[Tensor],
        clean: list[Tensor],
        targets: list[Tensor],
    ) -> Tensor:
        """Similarity (2, B) of the mixtures' predictions to their targets, mixed at the same site."""
        share, partner = batch["share"], batch["partner"]
        if self.mix_site == "image":
            images = [mix(batch.get(f"{view}_masked", batch[view]), share, partner) for view in VIEWS]
            mixed = [self.projector(self.encoder(x)) for x in images]
            crossed = self._crossed(targets)
            theirs = self._similarity(mixed, [gather(target)[partner] for target in crossed])
            return share * self._similarity(mixed, crossed) + (1 - share) * theirs
        if self.mix_site == "feature":
            mixed = [self.projector(mix(h, share, partner)) for h in features]
            mixed_targets = self._target_projections([mix(h, share, partner) for h in clean])
        else:
            mixed, mixed_targets = ([mix(z, share, partner) for z in zs] for zs in (projections, targets))
        return self._similarity(mixed, self._crossed(mixed_targets))

    @torch.no_grad()
    def _target_features(self, batch: dict[str, Tensor], features: list[Tensor]) -> list[Tensor]:
        if self.average is None and not self.mask_ratio:
            return [h.detach() for h in features]  # the same network and the same views
        encoder = self.encoder if self.average is None else self.average[0]
        return [encoder(batch[view]) for view in VIEWS]

    @torch.no_grad()
    def _target_projections(self, clean: list[Tensor]) -> list[Tensor]:
        projector = self.projector if self.average is None else self.average[1]
        return [projector(h) for h in clean]

    def _crossed(self, targets: list[Tensor]) -> list[Tensor]:
        """The targets of the first and the second view, from both views' target projections."""
        if self.target == "maximum":
            return [torch.maximum(*targets)] * 2
        return targets[::-1]

    def _similarity(self, projections: list[Tensor], targets: list[Tensor]) -> Tensor:
        return torch.stack([cosine(self.predictor(z), t) for z, t in zip(projections, targets, strict=True)])

    def _distance(self, similarity: Tensor) -> Tensor:
        """The base's loss of similarities (2, B); it is affine, so a mean of losses is the loss of the mean."""
        return (2 - 2 * similarity).sum(dim=0).mean() if self.base == "byol" else -similarity.mean()

    def _mask(self, view: Tensor, sample: RowSampler) -> Tensor:
        mask = sample(draw_mask, self.mask_grid, 1, self.mask_ratio)  # (B, 1, grid, grid)
        mask = F.interpolate(mask.to(view.dtype), size=view.shape[2:], mode="nearest").bool()
        return torch.where(mask, draw_fill(view, self.mask_fill, sample.rng), view)

    def _draw_partners(self, count: int, rng: Generator) -> Tensor:
        if self.mix_site == "image":
            return torch.arange(count, device=rng.device).flip(0)
        return torch.randperm(count, generator=rng, device=rng.device)

    def _online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projector)


def mix(x: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """λ·x + (1 − λ)·x_π for x (B, ...), λ = `share` (B,), π = `partner` (B,), rows of the global batch."""
    weight = share.view(-1, *[1] * (x.ndim - 1))
    return weight * x + (1 - weight) * gather(x)[partner]


def draw_symmetric_beta(count: int, rng: Generator, alpha: float) -> Tensor:
    """(count,) draws from Beta(α, α), which torch's distributions cannot draw from a generator.

    If T is Student's t with ν = 2α degrees of freedom, (1 + T/√(ν + T²))/2 is Beta(α, α); T = √(ν·g)·c by the polar
    method of Bailey 1994, "Polar Generation of Random Variates with the t-Distribution".
    """
    u, v = 1 - torch.rand(2, count, generator=rng, device=rng.device, dtype=torch.float64)  # in (0, 1]
    c, g = torch.cos(2 * math.pi * v), u ** (-1 / alpha) - 1
    share: Tensor = 0.5 * (1 + c.sign() * (1 + 1 / (g * c.square())).rsqrt())
    return share.float()
