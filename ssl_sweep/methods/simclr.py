"""SimCLR: contrasts two views of an image with all other images of the batch."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import global_feature_std, nt_xent, unit

CHECK = {"knobs": {"hidden_dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """Identify an image's other view among both views of the whole batch.

    L = mean over both views i of −log(exp(z_i·z_j/τ) / Σ_{k≠i} exp(z_i·z_k/τ)), j the other view of i, z the L2-
    normalised projections, k over both views of the global batch (all ranks').

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", equation 1. The
    defaults are those for ImageNet; on CIFAR-10 the paper (its appendix) has temperature 0.5.
    """

    view_recipe = "simclr"

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: Annotated[float, Field(gt=0, description="temperature of the softmax")] = 0.1,
        dim: Annotated[int, Field(ge=1, description="dimensions of the projection")] = 128,
        hidden_dim: Annotated[
            int | None, Field(ge=1, description="width of the projection's hidden layers; null: the features' width")
        ] = None,
        projection_layers: Annotated[int, Field(ge=1, le=4, description="linear layers of the projection")] = 2,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.encoder = encoder
        features = encoder.feature_dim
        self.projector = mlp(
            features, hidden_dim or features, dim, layers=projection_layers, batch_norm=True, last_norm="affine"
        )

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S)."""
        return {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent, mean similarities of positives and negatives, feature_std of the projections."""
        first, second = (unit(self.projector(self.encoder(batch[view]))) for view in ("first", "second"))
        loss, scalars = nt_xent(first, second, self.temperature)
        return loss, {**scalars, "feature_std": global_feature_std(torch.cat([first, second]))}
