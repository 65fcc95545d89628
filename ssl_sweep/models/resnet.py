"""Residual networks built from torchvision's blocks, with a variable width and a stem for small images.

Source: He, Zhang, Ren & Sun 2016, "Deep Residual Learning for Image Recognition"; the 3x3 stem is their CIFAR one.
"""

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from ssl_sweep.models.encoder import Encoder, Normalization

SMALL_IMAGE = 64  # pixels: up to this side the ImageNet stem would leave too small a map

Width = Annotated[int, Field(ge=1, description="channels of the first stage; 16 channels cost a 16th of 64")]
Stem = Annotated[
    Literal["auto", "imagenet", "small"],
    Field(description="imagenet: 7x7 stride 2 and max-pool; small: 3x3 stride 1; auto: small up to 64 pixels"),
]
ZeroInit = Annotated[bool, Field(description="initialise residual branches to zero, so that blocks start as identity")]
Block = type[BasicBlock | Bottleneck]


class Shortcut(nn.Conv2d):
    """A strided 1x1 convolution without bias that avoids a fault of oneDNN (its issue 6035).

    On a CPU, the gradient of a strided 1x1 convolution of fewer than 16 channels, channels-last, in fp32, overwrites
    memory, and the process dies on maps from 48 pixels on. Slicing the input by the stride first gives the same result.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.in_channels < 16 and maps.device.type == "cpu" and max(maps.shape[-2:]) >= 48:
            vertical, horizontal = self.stride
            return F.conv2d(maps[..., ::vertical, ::horizontal], self.weight)
        return super().forward(maps)


class ResNetEncoder(Encoder):
    """A ResNet without its classifier. `sides` are the sides in pixels of the input and after each stride-2 layer.

    A subclass sets `block`, torchvision's BasicBlock or Bottleneck, and `depths`, the blocks of the four stages.
    """

    block: Block
    depths: tuple[int, int, int, int]

    def __init__(
        self,
        image_size: int,
        *,
        width: Width = 64,
        stem: Stem = "auto",
        normalize: Normalization = "none",
        zero_init_residual: ZeroInit = False,
    ) -> None:
        small = stem == "small" or (stem == "auto" and image_size <= SMALL_IMAGE)
        sides = stage_sides(image_size, small)
        net = nn.Sequential(_stem(width, small) | _stages(self.block, self.depths, width))
        channels = width * 8 * self.block.expansion
        super().__init__(net, image_size, (channels, sides[-1], sides[-1]), normalize=normalize)
        self.width, self.small_stem, self.sides = width, small, sides
        init_convolutions(net)
        if zero_init_residual:
            _zero_residuals(net, self.block)


class ResNet18(ResNetEncoder):
    """ResNet-18: features of 8 * width."""

    block, depths = BasicBlock, (2, 2, 2, 2)


class ResNet34(ResNetEncoder):
    """ResNet-34: features of 8 * width."""

    block, depths = BasicBlock, (3, 4, 6, 3)


class ResNet50(ResNetEncoder):
    """ResNet-50: features of 32 * width."""

    block, depths = Bottleneck, (3, 4, 6, 3)


def stage_sides(image_size: int, small_stem: bool) -> list[int]:
    """Sides in pixels of the input and after each stride-2 layer, of the stem and of stages 2 to 4."""
    sides = [image_size]
    for _ in range(3 if small_stem else 5):
        sides.append((sides[-1] + 1) // 2)  # every stride-2 layer of a ResNet pads to ceil(side / 2)
    return sides


def init_convolutions(net: nn.Module) -> None:
    """He et al.'s normal initialisation of every convolution in `net`."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stem(width: int, small: bool) -> "OrderedDict[str, nn.Module]":
    conv = nn.Conv2d(3, width, 3, padding=1, bias=False) if small else nn.Conv2d(3, width, 7, 2, 3, bias=False)
    layers = OrderedDict[str, nn.Module](conv1=conv, bn1=nn.BatchNorm2d(width), relu=nn.ReLU(inplace=True))
    if not small:
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return layers


def _stages(block: Block, depths: tuple[int, ...], width: int) -> "OrderedDict[str, nn.Module]":
    stages = OrderedDict[str, nn.Module]()
    channels = width
    for index, depth in enumerate(depths):
        planes = width * 2**index
        stages[f"layer{index + 1}"] = _stage(block, channels, planes, depth, stride=1 if index == 0 else 2)
        channels = planes * block.expansion
    return stages


def _stage(block: Block, channels: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    out_channels = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != out_channels:
        shortcut = nn.Sequential(Shortcut(channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    return nn.Sequential(
        block(channels, planes, stride, shortcut), *(block(out_channels, planes) for _ in range(depth - 1))
    )


def _zero_residuals(net: nn.Module, block: Block) -> None:
    last_scale = "bn3.weight" if block is Bottleneck else "bn2.weight"
    for name, parameter in net.named_parameters():
        if name.endswith(last_scale):
            nn.init.zeros_(parameter)
