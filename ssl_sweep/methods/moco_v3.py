"""Momentum contrast, version 3: predictions against the keys of a slowly moving encoder, without a queue."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import gather_no_grad, rank
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import Term, add, global_feature_std, unit
from ssl_sweep.models.momentum import EncoderOf, cosine_momentum, ema_copy, ema_update
from ssl_sweep.models.positions import sine_positions
from ssl_sweep.models.precision import full_precision
from ssl_sweep.models.vit import ViTEncoder

PATCH_LAYERS = ("conv_proj", "patch_embed")  # of torchvision's transformers, and of timm's

CHECK = {"knobs": {"hidden_dim": 128, "dim": 64}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """Identify the key of an image's other view among the keys of the whole batch.

    L = ctr(q₁, k₂) + ctr(q₂, k₁), ctr(q, k) = −2τ·log(exp(q·k₊/τ) / Σ_j exp(q·k_j/τ)), q = predictor(projector(f(x))),
    k the momentum network's projection without gradient, both of length 1, j over the global batch; θ_k ← m·θ_k +
    (1 − m)·θ_q after each step, m rising from `momentum` to 1 by a cosine.

    Transformers train unstably by this loss; the paper's remedy is a patch projection that keeps its random weights.

    Source: Chen, Xie & He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers", equation 1,
    algorithm 1 and sections 3 to 5. Its `pretrain` settings on ImageNet, of transformers: epochs 300, batch_size 4096,
    optimizer adamw, lr 1.5e-4, lr_scaling linear, weight_decay 0.1, warmup_epochs 40. In its authors' code, a ResNet-50
    has temperature 1 and two layers in the projector. *Open*, ours: the patch projection has torchvision's random
    weights, where theirs has Xavier's; transformers of timm and torchvision keep their own positions, and so does an
    encoder that begins from weights.
    """

    view_recipe = "byol"

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Annotated[float, Field(gt=0, description="temperature τ of the softmax")] = 0.2,
        momentum: Annotated[
            float, Field(ge=0, le=1, description="momentum of the key network at the start; 1 at the end")
        ] = 0.99,
        hidden_dim: Annotated[int, Field(ge=1, description="hidden width of projector and predictor")] = 4096,
        dim: Annotated[int, Field(ge=1, description="dimensions of queries and keys")] = 256,
        projection_layers: Annotated[int, Field(ge=1, le=4, description="linear layers of the projector")] = 3,
        freeze_patches: Annotated[
            bool, Field(description="leave a transformer's patch projection as it begins; no matter for other encoders")
        ] = True,
        positions: Annotated[
            Literal["sines", "learned"],
            Field(description="positions of vit_tiny, vit_small and vit_base: fixed sines and cosines, or learned"),
        ] = "sines",
        encoder_of: EncoderOf = "student",
    ) -> None:
        super().__init__()
        self.temperature, self.momentum, self.encoder_of = temperature, momentum, encoder_of
        if isinstance(encoder, ViTEncoder) and positions == "sines":
            _fix_positions(encoder)
        if freeze_patches:
            _freeze_patches(encoder)
        self.encoder = encoder
        self.projector = mlp(
            encoder.feature_dim, hidden_dim, dim, layers=projection_layers, batch_norm=True, last_norm="plain"
        )
        self.predictor = mlp(dim, hidden_dim, dim, batch_norm=True, last_norm="plain")
        self.keys = ema_copy(self._online())

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S)."""
        return {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Both contrasts, mean similarities of positives and negatives, and feature_std of the projections."""
        projections = [self.projector(self.encoder(batch[view])) for view in ("first", "second")]  # (B, dim) each
        queries = [unit(self.predictor(projection)) for projection in projections]
        with torch.no_grad():
            keys = [unit(self.keys(batch[view])) for view in ("second", "first")]
        loss, scalars = add([_contrast(q, k, self.temperature) for q, k in zip(queries, keys, strict=True)])
        return loss, {**scalars, "feature_std": global_feature_std(torch.cat(projections))}

    def evaluated(self) -> nn.Sequential:
        """The encoder that is evaluated, and its projector."""
        return self.keys if self.encoder_of == "teacher" else self._online()

    def after_step(self, progress: float) -> None:
        """Update the key network."""
        ema_update(self.keys, self._online(), cosine_momentum(self.momentum, progress))

    def _online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projector)


def _contrast(query: Tensor, key: Tensor, temperature: float) -> Term:
    """ctr(q, k) of this rank's queries (B, D) against all ranks' keys, and the mean similarities."""
    with full_precision(query):
        similarity = query @ gather_no_grad(key).T  # (B, W·B)
        own = len(query) * rank() + torch.arange(len(query), device=query.device)
        loss = 2 * temperature * F.cross_entropy(similarity / temperature, own)
    similarity = similarity.detach()
    positive = similarity.gather(1, own.unsqueeze(1))  # (B, 1)
    negatives = max(similarity.numel() - len(query), 1)
    scalars = {
        "positive_similarity": positive.mean(),
        "negative_similarity": (similarity.sum() - positive.sum()) / negatives,
    }
    return loss, scalars


def _fix_positions(encoder: ViTEncoder) -> None:
    """Give a transformer sines and cosines as positions, unless it has learned others; they get no gradient."""
    embedding = encoder.net.encoder.pos_embedding
    embedding.requires_grad_(False)
    if not encoder.begun:
        dim, height, width = encoder.map_shape
        embedding.data[:, :1] = 0  # of the class token
        embedding.data[:, 1:] = sine_positions(height, width, dim).to(embedding)


def _freeze_patches(encoder: Encoder) -> None:
    for name in PATCH_LAYERS:
        layer = getattr(encoder.net, name, None)
        if isinstance(layer, nn.Module):
            layer.requires_grad_(False)
