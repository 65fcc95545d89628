"""Barlow Twins: makes the cross-correlation of two views' embeddings the identity."""

from typing import Annotated

from pydantic import Field
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.correlation import off_diagonal_energy, standardized
from ssl_sweep.models.distributed import gather
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import global_feature_std
from ssl_sweep.models.precision import at_least_fp32, full_precision

EPS = 1e-5  # added to the variance, as in batch normalisation, so that a dead unit does not divide by zero
CHECK = {"knobs": {"hidden_dim": 128, "dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """L = Σ_i (1 − C_ii)² + λ · Σ_i Σ_{j≠i} C_ij², with C the cross-correlation of two views over the global batch.

    C_ij = Σ_b zᴬ_bi · zᴮ_bj / N of embeddings standardised over the batch. The projector has three linear layers, with
    batch normalisation after the first two.

    Source: Zbontar, Jing, Misra, LeCun & Deny 2021, "Barlow Twins: Self-Supervised Learning via Redundancy
    Reduction", equations 1 and 2. Its section 2.2 has these `pretrain` settings on ImageNet: epochs 1000, batch_size
    2048, optimizer lars, lr 0.2, bias_lr 0.0048, lr_scaling linear, weight_decay 1.5e-6, warmup_epochs 10, final_lr
    0.001.
    """

    view_recipe = "byol"

    def __init__(
        self,
        encoder: Encoder,
        *,
        redundancy: Annotated[
            float, Field(ge=0, description="weight λ of the correlations between different dimensions")
        ] = 0.0051,
        hidden_dim: Annotated[int, Field(ge=1, description="width of the projector's two hidden layers")] = 8192,
        dim: Annotated[int, Field(ge=2, description="dimensions of the embedding")] = 8192,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.feature_dim, hidden_dim, dim, layers=3, batch_norm=True)
        self.redundancy = redundancy

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S) in [0, 1] of every image."""
        return {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, its two terms (the second unweighted), and feature_std of the first view's embeddings."""
        first, second = (self.projector(self.encoder(batch[name])) for name in ("first", "second"))
        with full_precision(first):
            first, second = (gather(at_least_fp32(z)) for z in (first, second))  # (W·B, D)
            correlation = standardized(first, EPS).T @ standardized(second, EPS) / len(first)  # (D, D)
            invariance = (1 - correlation.diagonal()).square().sum()
            redundancy = off_diagonal_energy(correlation)
            loss = invariance + self.redundancy * redundancy
        return loss, {
            "invariance": invariance.detach(),
            "redundancy": redundancy.detach(),
            "feature_std": global_feature_std(first),
        }
