"""The base class of encoders."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

# mean and standard deviation by channel of the training images, as in the public recipes for these sets
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}

Normalization = Annotated[
    Literal["none", "imagenet", "cifar10"],
    Field(description="statistics that normalise the encoder's input; none: the input stays in [0, 1]"),
]


class Encoder(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> a feature map (B, C, h, w) and pooled features (B, feature_dim).

    The network is `net`: without the prefix `net.`, the state's keys are those of the original architecture.

    Args:
        net: normalised images -> feature map.
        image_size: S, the side in pixels that the encoder is built for.
        map_shape: (C, h, w) of the feature map at that size.
        normalize: statistics for the input.
    """

    net: nn.Module
    trainable = True  # False: it has no weights, and methods that pretrain are refused with it
    finds_unused = False  # True: `feature_map` leaves some of its weights unused; DDP then looks for them in every step
    begun = False  # True: it has the weights of an earlier training, by `weights.load_weights`

    def __init__(
        self, net: nn.Module, image_size: int, map_shape: tuple[int, int, int], *, normalize: Normalization = "none"
    ) -> None:
        super().__init__()
        self.net = net
        self.image_size = image_size
        self.side_step = 1  # sides of images that the network may take are multiples of it
        self.map_shape = map_shape
        self.feature_dim = map_shape[0]
        self.normalize = nn.Identity() if normalize == "none" else Normalize(*STATISTICS[normalize])

    def feature_map(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> (B, C, h, w)."""
        features: Tensor = self.net(self.normalize(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> pooled features (B, feature_dim)."""
        return self.feature_map(x).mean(dim=(2, 3))


class Normalize(nn.Module):
    """(x - mean) / std by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        # not persistent: constants do not belong in a checkpoint or an exported state
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> the same shape."""
        return (x - self.mean) / self.std
