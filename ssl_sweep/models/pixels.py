"""Pixels as features: the baseline for every learned feature."""

from torch import Tensor, nn

from ssl_sweep.models.encoder import Encoder, Normalization


class Pixels(Encoder):
    """Images (B, 3, S, S) -> their pixels (B, 3·S·S). It has no weights, so only `supervised` can use it."""

    trainable = False

    def __init__(self, image_size: int, *, normalize: Normalization = "none") -> None:
        super().__init__(nn.Identity(), image_size, (3, image_size, image_size), normalize=normalize)
        self.feature_dim = 3 * image_size**2

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> (B, 3·S·S)."""
        return self.feature_map(x).flatten(1)
