"""Two convolutions."""

from torch import nn

from ssl_sweep.models.encoder import Encoder


class Backbone(Encoder):
    def __init__(self, image_size: int, *, width: int = 8) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        super().__init__(net, image_size, (width, image_size // 4, image_size // 4))
