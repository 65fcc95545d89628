"""The networks of DrLIM and Exemplar-CNN."""

from collections import OrderedDict
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.color import grayscale
from ssl_sweep.models.encoder import Encoder, Normalization

Dim = Annotated[int, Field(ge=1, description="dimensions of the embedding; 2 can be plotted directly")]
PatchSize = Annotated[
    int, Field(ge=16, description="side in pixels of the last layer's receptive field, at most the image's side")
]


class DrlimEncoder(Encoder):
    """Grey images -> convolution 15@6x6 -> pooling 3x3 -> convolution 30@9x9 -> linear, to (B, dim).

    The second convolution covers the whole map, which is 9x9 for the original's 32 pixels; for other image sizes its
    kernel is the map's side. *Open*, ours: max-pooling, and tanh after it and after the second convolution.

    Source: Hadsell, Chopra & LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", section 3.

    Raises:
        ValueError: images of less than 8 pixels.
    """

    def __init__(self, image_size: int, *, dim: Dim = 2) -> None:
        kernel = (image_size - 5) // 3
        if kernel < 1:
            raise ValueError(f"image_size: {image_size} is too small for the drlim encoder; use 8 or more")
        net = nn.Sequential(
            Gray(),
            nn.Conv2d(1, 15, 6),
            nn.MaxPool2d(3),
            nn.Tanh(),
            nn.Conv2d(15, 30, kernel),
            nn.Tanh(),
            nn.Conv2d(30, dim, 1),
        )
        super().__init__(net, image_size, (dim, 1, 1))


class ExemplarEncoder(Encoder):
    """The small net 64c5-64c5-128f: two 5x5 convolutions of 64, each with max-pooling 2x2, then 128 units on a patch.

    On images larger than a patch the last layer slides, so that every place of the feature map is the net's output for
    the patch there. Features are the maxima of all three layers over the four quadrants of the image, 1024 in total;
    the net is trained on its feature map.

    Source: Dosovitskiy, Springenberg, Riedmiller & Brox 2014, "Discriminative Unsupervised Feature Learning with
    Convolutional Neural Networks", sections 3.1 and 3.2.

    Raises:
        ValueError: images of less than 16 pixels, or in the forward pass of less than a patch.
    """

    def __init__(self, image_size: int, *, patch_size: PatchSize = 32, normalize: Normalization = "none") -> None:
        patch = min(patch_size, image_size)
        kernel = pooled_side(patch)
        if kernel < 1:
            raise ValueError(f"image_size: {image_size} is too small for the exemplar encoder; use 16 or more")
        side = pooled_side(image_size) - kernel + 1
        net = nn.Sequential(
            OrderedDict(
                conv1=nn.Sequential(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
                conv2=nn.Sequential(nn.Conv2d(64, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
                full=nn.Sequential(nn.Conv2d(64, 128, kernel), nn.ReLU()),
            )
        )
        super().__init__(net, image_size, (128, side, side), normalize=normalize)
        self.patch_size = patch
        self.feature_dim = 4 * (64 + 64 + 128)

    def feature_map(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1], of a patch or larger -> (B, 128, h, w); a patch gives h = w = 1."""
        return self._layers(x)[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> maxima of each layer over each quadrant (B, 1024)."""
        return torch.cat([quadrant_maxima(layer) for layer in self._layers(x)], dim=1)

    def _layers(self, x: Tensor) -> list[Tensor]:
        if min(x.shape[2:]) < self.patch_size:
            raise ValueError(
                f"exemplar encoder: images of {tuple(x.shape[2:])} pixels are smaller than its patch of "
                f"{self.patch_size}; lower encoder.patch_size or raise the method's"
            )
        x = self.normalize(x)
        layers = []
        for layer in self.net.children():
            x = layer(x)
            layers.append(x)
        return layers


class Gray(nn.Module):
    """(B, 3, S, S) -> luma (B, 1, S, S)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convert colour images to greyscale."""
        return grayscale(x)


def quadrant_maxima(x: Tensor) -> Tensor:
    """The maximum of each channel over each quarter of the map, (B, C, h, w) -> (B, 4·C).

    The middle row and column of an odd map belong to both sides.
    """
    return F.adaptive_max_pool2d(x, 2).flatten(1)


def pooled_side(side: int) -> int:
    """Side of the map after two 5x5 convolutions without padding, each followed by pooling 2x2."""
    return ((side - 4) // 2 - 4) // 2
