"""Two convolutions."""

from typing import Annotated

from pydantic import Field
from torch import nn

from ssl_sweep.models.encoder import Encoder

Width = Annotated[int, Field(ge=1, description="channels")]


class Backbone(Encoder):
    def __init__(self, image_size: int, *, width: Width = 8) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        super().__init__(net, image_size, (width, (image_size + 3) // 4, (image_size + 3) // 4))
