"""The baseline that every learned feature has to beat: the pixels themselves."""

from torch import Tensor, nn

from ssl_sweep.models.encoder import Encoder, Normalization


class Pixels(Encoder):
    """Images (B, 3, S, S) -> their pixels (B, 3·S·S); has no weights, so that only `supervised` can go with it."""

    trainable = False

    def __init__(self, image_size: int, *, normalize: Normalization = "none") -> None:
        super().__init__(nn.Identity(), image_size, (3, image_size, image_size), normalize=normalize)
        self.feature_dim = 3 * image_size**2

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> (B, 3·S·S)."""
        return self.feature_map(x).flatten(1)
