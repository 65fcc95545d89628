"""VICReg: equal embeddings of two views, with variance in every dimension and no correlated dimensions."""

from typing import Annotated

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.correlation import covariance, off_diagonal_energy
from ssl_sweep.models.distributed import gather
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import global_feature_std
from ssl_sweep.models.precision import at_least_fp32, full_precision

EPS = 1e-4  # inside the root of the variance, as in the paper
Weight = Annotated[float, Field(ge=0)]

CHECK = {"knobs": {"hidden_dim": 128, "dim": 128}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """L = λ·s(Z, Z') + μ·[v(Z) + v(Z')]/2 + ν·[c(Z) + c(Z')] over the global batch of N embeddings of D dimensions.

    Invariance s is the mean of (z − z')², variance v the mean over dimensions of max(0, 1 − sqrt(var + ε)),
    covariance c the sum of squares off the diagonal of the covariance matrix, over D.

    The paper prints s without the mean over dimensions and v without the half; both are in the authors' code, for which
    the weights 25, 25, 1 were tuned, and so they are here.

    Source: Bardes, Ponce & LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
    Learning", equations 1 to 6.
    """

    view_recipe = "byol"

    def __init__(
        self,
        encoder: Encoder,
        *,
        invariance: Annotated[Weight, Field(description="weight λ of the distance between two views")] = 25.0,
        variance: Annotated[Weight, Field(description="weight μ of the hinge on the standard deviation")] = 25.0,
        covariance: Annotated[Weight, Field(description="weight ν of the covariances")] = 1.0,
        hidden_dim: Annotated[int, Field(ge=1, description="width of the projector's two hidden layers")] = 8192,
        dim: Annotated[int, Field(ge=2, description="dimensions of the embedding")] = 8192,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.feature_dim, hidden_dim, dim, layers=3, batch_norm=True)
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S) in [0, 1] of every image."""
        return {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, its three unweighted terms, and feature_std of the first view's embeddings."""
        first, second = (self.projector(self.encoder(batch[name])) for name in ("first", "second"))
        with full_precision(first):
            first, second = (gather(at_least_fp32(z)) for z in (first, second))  # (W·B, D)
            invariance = F.mse_loss(first, second)
            variance = (variance_hinge(first) + variance_hinge(second)) / 2
            decorrelation = (off_diagonal_energy(covariance(first)) + off_diagonal_energy(covariance(second))) / (
                first.shape[1]
            )
            loss = self.invariance * invariance + self.variance * variance + self.covariance * decorrelation
        return loss, {
            "invariance": invariance.detach(),
            "variance": variance.detach(),
            "covariance": decorrelation.detach(),
            "feature_std": global_feature_std(first),
        }


def variance_hinge(z: Tensor) -> Tensor:
    """Mean over the dimensions of `z` (N, D) of max(0, 1 − standard deviation)."""
    return F.relu(1 - (z.var(dim=0) + EPS).sqrt()).mean()
