"""BYOL: predicts the output of a moving average of the network for another view, without negatives."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import cosine, global_feature_std
from ssl_sweep.models.momentum import EncoderOf, cosine_momentum, ema_copy, ema_update

CHECK = {"knobs": {"hidden_dim": 128, "dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """Regress the target network's projection of one view on the online network's prediction from the other.

    L = ‖p₁/|p₁| − z₂/|z₂|‖² + ‖p₂/|p₂| − z₁/|z₁|‖² = Σ (2 − 2·cos(p, z)), p = predictor(projector(f(view))) online, z
    the target's projection, without gradient; θ_target ← m·θ_target + (1 − m)·θ_online after each step, m rising from
    `momentum` to 1 by a cosine.

    Source: Grill et al. 2020, "Bootstrap Your Own Latent", equations 1 and 2 and section 3.2. Its momentum starts at
    0.996 for 1000 epochs on ImageNet and at 0.99, the default here, for 300.
    """

    view_recipe = "byol"

    def __init__(
        self,
        encoder: Encoder,
        *,
        momentum: Annotated[
            float, Field(ge=0, le=1, description="target's momentum at the start; 1 at the end")
        ] = 0.99,
        hidden_dim: Annotated[int, Field(ge=1, description="hidden width of projector and predictor")] = 4096,
        dim: Annotated[int, Field(ge=1, description="dimensions of projection and prediction")] = 256,
        encoder_of: EncoderOf = "student",
    ) -> None:
        super().__init__()
        self.momentum, self.encoder_of = momentum, encoder_of
        self.encoder = encoder
        self.projector = mlp(encoder.feature_dim, hidden_dim, dim, batch_norm=True)
        self.predictor = mlp(dim, hidden_dim, dim, batch_norm=True)
        self.target = ema_copy(self._online())

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S)."""
        return {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The regression in both directions, the mean similarity of prediction and target, feature_std."""
        first, second = (self.projector(self.encoder(batch[view])) for view in ("first", "second"))  # (B, dim) each
        with torch.no_grad():
            targets = [self.target(batch[view]) for view in ("second", "first")]
        similarity = torch.stack(
            [cosine(self.predictor(z), target) for z, target in zip((first, second), targets, strict=True)]
        )  # (2, B)
        loss = (2 - 2 * similarity).sum(dim=0).mean()
        spread = global_feature_std(torch.cat([first, second]))
        return loss, {"positive_similarity": similarity.detach().mean(), "feature_std": spread}

    def evaluated(self) -> nn.Sequential:
        """The encoder that is evaluated, and its projector."""
        return self.target if self.encoder_of == "teacher" else self._online()

    def after_step(self, progress: float) -> None:
        """Update the target network."""
        ema_update(self.target, self._online(), cosine_momentum(self.momentum, progress))

    def _online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projector)
