"""Decoders: map a feature map to an image in [0, 1]."""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from ssl_sweep.models.encoder import Encoder
from ssl_sweep.models.precision import at_least_fp32
from ssl_sweep.models.resnet import ResNetEncoder, init_convolutions


def mirrored_decoder(encoder: Encoder) -> nn.Module:
    """The decoder of `encoder`: feature map (B, C, h, w) -> images (B, 3, S, S) in [0, 1], in fp32 or better.

    A ResNet is mirrored block by block (Li, Ding & Wang 2023, section 3.1). Other encoders, including transformers,
    have no stages to mirror: their decoder is a small pyramid of transposed convolutions.
    """
    return _mirrored_resnet(encoder) if isinstance(encoder, ResNetEncoder) else _pyramid(encoder)


class Pixels(nn.Module):
    """Sigmoid, the last layer of a decoder."""

    def forward(self, logits: Tensor) -> Tensor:
        """Logits of any shape -> values in [0, 1]."""
        return torch.sigmoid(at_least_fp32(logits))  # bf16 has fewer steps near 1 than an 8-bit image


class MirroredBlock(nn.Module):
    """A mirrored residual block, `channels` -> `out_channels`.

    Args:
        planes: channels of the 3x3 convolution inside a bottleneck.
        side: of the input's map in pixels.
        out_side: of the output's map; if it differs, the 3x3 convolution nearest the output is transposed.
        bottleneck: three convolutions, 1x1, 3x3, 1x1, instead of two of 3x3.
    """

    def __init__(
        self, channels: int, out_channels: int, planes: int, *, side: int, out_side: int, bottleneck: bool
    ) -> None:
        super().__init__()
        if bottleneck:
            first = [*_normed(_conv(channels, planes, 1)), *_normed(_grow(planes, planes, 3, side, out_side))]
            last: nn.Module = _conv(planes, out_channels, 1)
        else:
            first = _normed(_conv(channels, planes, 3))
            last = _grow(planes, out_channels, 3, side, out_side)
        self.branch = nn.Sequential(*first, last, nn.BatchNorm2d(out_channels))
        self.shortcut = nn.Sequential()
        if channels != out_channels or side != out_side:
            self.shortcut.extend([_conv(channels, out_channels, 1), nn.BatchNorm2d(out_channels)])
        if side != out_side:
            # a transposed 1x1 convolution would leave three of four pixels zero
            self.shortcut.append(nn.Upsample(size=(out_side, out_side)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, side, side) -> (B, out_channels, out_side, out_side)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def _mirrored_resnet(encoder: ResNetEncoder) -> nn.Module:
    width, expansion = encoder.width, encoder.block.expansion
    sides = encoder.sides[-4:]  # after each of the four stages
    blocks: list[nn.Module] = []
    for stage in reversed(range(4)):
        planes, side = width * 2**stage, sides[stage]
        channels = planes * expansion
        out_channels, out_side = (channels // 2, sides[stage - 1]) if stage else (width, side)
        outs = [(channels, side)] * (encoder.depths[stage] - 1) + [(out_channels, out_side)]
        blocks += [
            MirroredBlock(channels, out, planes, side=side, out_side=grown, bottleneck=encoder.block is Bottleneck)
            for out, grown in outs
        ]
    body = nn.Sequential(*blocks)
    init_convolutions(body)
    # the last convolution keeps torch's smaller weights: He's would saturate the sigmoid at the start
    return nn.Sequential(body, *_mirrored_stem(encoder), Pixels())


def _mirrored_stem(encoder: ResNetEncoder) -> list[nn.Module]:
    width, sides = encoder.width, encoder.sides
    if encoder.small_stem:
        return [nn.Conv2d(width, 3, 3, padding=1)]
    return [*_normed(_grow(width, width, 3, sides[2], sides[1])), _grow(width, 3, 7, sides[1], sides[0], bias=True)]


def _pyramid(encoder: Encoder) -> nn.Module:
    channels, height, width = encoder.map_shape
    image_shape = (encoder.image_size, encoder.image_size)
    layers: list[nn.Module] = []
    while 2 * max(height, width) <= encoder.image_size:
        out_channels = max(channels // 2, 16)
        # the kernel is a multiple of the stride: no checkerboard
        layers += _normed(nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1, bias=False))
        channels, height, width = out_channels, 2 * height, 2 * width
    if (height, width) != image_shape:
        layers.append(nn.Upsample(size=image_shape))
    return nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1), Pixels())


def _conv(channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)


def _grow(
    channels: int, out_channels: int, kernel: int, side: int, out_side: int, *, bias: bool = False
) -> nn.Conv2d | nn.ConvTranspose2d:
    """The transposed convolution from `side` to `out_side` pixels; a plain one if they are equal."""
    padding = kernel // 2
    if side == out_side:
        return nn.Conv2d(channels, out_channels, kernel, padding=padding, bias=bias)
    # even and odd sides shrink to the same side: the output padding chooses between them
    output_padding = out_side - (2 * side - 1)
    return nn.ConvTranspose2d(channels, out_channels, kernel, 2, padding, output_padding, bias=bias)


def _normed(conv: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]
