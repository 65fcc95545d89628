"""SimSiam: predicts one view's projection from the other's, with a stop-gradient instead of a second network."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import cosine, global_feature_std

CHECK = {"knobs": {"dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """L = −½·cos(p₁, sg z₂) − ½·cos(p₂, sg z₁), the negative cosine of prediction and projection without gradient.

    z = projector(f(view)), whose last normalisation has no scale and shift; p = predictor(z), a bottleneck with a
    constant learning rate, while that of the other modules decays.

    Source: Chen & He 2021, "Exploring Simple Siamese Representation Learning", equations 1 and 4, section 3. Defaults
    are those for ImageNet; on CIFAR-10 (its appendix) projection_layers is 2. The recipe sets the encoder's knob
    zero_init_residual.
    """

    view_recipe = "moco_v2"

    def __init__(
        self,
        encoder: Encoder,
        *,
        dim: Annotated[int, Field(ge=1, description="dimensions of projection and prediction, and their width")] = 2048,
        projection_layers: Annotated[
            Literal[3, 2], Field(description="linear layers of the projector; 2 on small images")
        ] = 3,
        predictor_dim: Annotated[int, Field(ge=1, description="width of the predictor's bottleneck")] = 512,
        constant_predictor_lr: Annotated[
            bool, Field(description="train the predictor at the peak learning rate, without the schedule")
        ] = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(
            encoder.feature_dim, dim, dim, layers=projection_layers, batch_norm=True, last_norm="plain"
        )
        self.predictor = mlp(dim, predictor_dim, dim, batch_norm=True)
        self.constant_lr = ("predictor",) if constant_predictor_lr else ()

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S)."""
        return {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The symmetric negative cosine, the mean similarity, feature_std of the projections."""
        first, second = (self.projector(self.encoder(batch[view])) for view in ("first", "second"))  # (B, dim) each
        pairs = ((first, second), (second, first))
        similarity = torch.stack([cosine(self.predictor(z), other.detach()) for z, other in pairs])  # (2, B)
        spread = global_feature_std(torch.cat([first, second]))
        return -similarity.mean(), {"positive_similarity": similarity.detach().mean(), "feature_std": spread}
