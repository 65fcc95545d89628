"""Decoders: the encoder mirrored, back to the image's size."""

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.models.decoders import MirroredBlock, Pixels, mirrored_decoder
from ssl_sweep.models.encoder import Encoder
from ssl_sweep.models.encoders import ENCODERS

CASES = [
    (name, size, {"width": 8, "stem": stem})
    for name in ("resnet18", "resnet34", "resnet50")
    for size in (8, 28, 32, 64)
    for stem in ("small", "imagenet")
]
CASES += [("resnet50", 224, {"width": 64}), ("vit_tiny", 224, {})]
CASES += [("vit_tiny", size, {"patch_size": patch}) for size, patch in ((8, 1), (32, 4), (24, 12), (64, 8))]


@pytest.mark.parametrize(("name", "image_size", "knobs"), CASES)
@torch.no_grad()
def test_the_output_is_an_image_of_the_inputs_size(name: str, image_size: int, knobs: dict[str, object]) -> None:
    encoder = ENCODERS[name](image_size, **knobs)
    images = torch.rand(1 if image_size == 224 else 2, 3, image_size, image_size)
    # BN needs more than one value a channel, which one 224-pixel image has
    output = mirrored_decoder(encoder)(encoder.feature_map(images))
    assert output.shape == images.shape
    assert output.min() >= 0
    assert output.max() <= 1


def mirrored_blocks(decoder: nn.Module) -> list[MirroredBlock]:
    return [module for module in decoder.modules() if isinstance(module, MirroredBlock)]


@pytest.mark.parametrize(
    ("name", "counts"), [("resnet18", [2, 2, 2, 2]), ("resnet34", [3, 6, 4, 3]), ("resnet50", [3, 6, 4, 3])]
)
def test_the_stages_are_the_encoders_reversed(name: str, counts: list[int]) -> None:
    encoder = ENCODERS[name](32, width=8)
    blocks = mirrored_blocks(mirrored_decoder(encoder))
    widths = [block.branch[0].in_channels for block in blocks]
    assert [widths.count(width) for width in sorted(set(widths), reverse=True)] == counts
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_mirror_has_the_weights_of_the_encoders_convolutions(name: str) -> None:
    encoder = ENCODERS[name](224, width=8)
    sizes = [sum(w.numel() for w in m.parameters() if w.ndim == 4) for m in (encoder, mirrored_decoder(encoder))]
    unpooling = 8 * 8 * 3 * 3  # max-pool has no weights, the transposed convolution in its place has
    assert sizes[1] == sizes[0] + unpooling


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_only_transposed_convolutions_upsample_the_branches(name: str) -> None:
    blocks = mirrored_blocks(mirrored_decoder(ENCODERS[name](32, width=8)))
    growing = [any(isinstance(layer, nn.ConvTranspose2d) for layer in block.branch) for block in blocks]
    assert sum(growing) == 3  # 4 -> 8 -> 16 -> 32 pixels


def test_any_encoder_gets_a_decoder() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 6, stride=6))
    encoder = Encoder(net, 30, (5, 5, 5))
    images = torch.rand(2, 3, 30, 30)
    assert mirrored_decoder(encoder)(encoder.feature_map(images)).shape == images.shape


@pytest.mark.parametrize(("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_pixels_are_not_rounded_to_bf16(dtype: torch.dtype, result: torch.dtype) -> None:
    logits: Tensor = torch.linspace(-4, 4, 9, dtype=dtype)
    pixels = Pixels()(logits)
    assert pixels.dtype == result
    torch.testing.assert_close(pixels, 1 / (1 + torch.exp(-logits.to(result))))
