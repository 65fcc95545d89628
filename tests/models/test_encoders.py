"""Encoders: shapes, and the same function as torchvision's networks with the same weights."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.transforms.functional import normalize

from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder
from ssl_sweep.models.resnet import ResNet18, ResNet50, Shortcut
from ssl_sweep.models.sides import nearby_side
from ssl_sweep.models.vit import ViTTiny, default_patch_size

RESNETS = ["resnet18", "resnet34", "resnet50"]


def images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def small(name: str, image_size: int) -> Encoder:
    return ENCODERS[name](image_size, **({"width": 8} if name in RESNETS else {}))


def net_state(encoder: Encoder) -> dict[str, Tensor]:
    return {name.removeprefix("net."): value for name, value in encoder.state_dict().items()}


@pytest.mark.parametrize("image_size", [8, 28, 32, 64, 224])
@pytest.mark.parametrize("name", [*RESNETS, "vit_tiny"])
@torch.no_grad()
def test_the_shapes_are_as_promised(name: str, image_size: int) -> None:
    encoder = small(name, image_size)
    x = images(image_size)
    assert encoder.feature_map(x).shape == (2, *encoder.map_shape)
    assert encoder(x).shape == (2, encoder.feature_dim)


@pytest.mark.parametrize(("name", "dim"), [("vit_small", 384), ("vit_base", 768)])
@torch.no_grad()
def test_the_larger_transformers_have_the_published_widths(name: str, dim: int) -> None:
    encoder = ENCODERS[name](32, patch_size=16)
    assert encoder(images(32, 1)).shape == (1, dim)
    assert encoder.map_shape == (dim, 2, 2)


@pytest.mark.parametrize("name", RESNETS)
def test_a_resnet_holds_torchvisions_weights_under_the_same_keys(name: str) -> None:
    reference = getattr(torchvision.models, name)()
    missing, unexpected = reference.load_state_dict(net_state(ENCODERS[name](224)), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_a_resnet_computes_torchvisions_features(name: str) -> None:
    encoder = ENCODERS[name](64, stem="imagenet").eval()
    reference = getattr(torchvision.models, name)().eval()
    reference.load_state_dict(net_state(encoder), strict=False)
    reference.fc = nn.Identity()
    torch.testing.assert_close(encoder(images(64)), reference(images(64)))


@torch.no_grad()
def test_a_transformer_computes_torchvisions_features() -> None:
    encoder = ViTTiny(16, patch_size=4).eval()
    reference = VisionTransformer(16, 4, 12, 3, 192, 768).eval()
    reference.heads = nn.Identity()
    reference.load_state_dict(net_state(encoder))
    torch.testing.assert_close(encoder(images(16)), reference(images(16)))


@pytest.mark.parametrize(
    ("image_size", "stem", "side"), [(64, "auto", 8), (96, "auto", 3), (96, "small", 12), (32, "imagenet", 1)]
)
def test_the_stem_follows_the_image_size_unless_it_is_named(image_size: int, stem: str, side: int) -> None:
    assert ENCODERS["resnet18"](image_size, width=8, stem=stem).map_shape == (64, side, side)


def test_the_width_scales_every_layer() -> None:
    narrow, wide = ResNet18(32, width=16), ResNet18(32, width=64)
    shapes = zip(narrow.state_dict().values(), wide.state_dict().values(), strict=True)
    assert all(b.shape[:1] == tuple(4 * n for n in a.shape[:1]) for a, b in shapes)


@pytest.mark.parametrize("encoder_class", [ResNet18, ResNet50])
def test_zero_init_makes_the_residual_branches_vanish(encoder_class: type[ResNet18 | ResNet50]) -> None:
    stage = encoder_class(8, width=8, zero_init_residual=True).net.get_submodule("layer1")
    x = images(8).repeat(1, 11, 1, 1)[:, : 8 * encoder_class.block.expansion]
    torch.testing.assert_close(stage.get_submodule("1")(x), x)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ],
)
@pytest.mark.parametrize("architecture", ["resnet18", "vit_tiny"])
@torch.no_grad()
def test_the_input_is_normalised_inside(
    architecture: str, name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    inside = ENCODERS[architecture](8, normalize=name).eval()
    outside = ENCODERS[architecture](8).eval()
    outside.load_state_dict(inside.state_dict())  # strict: the statistics are not in the state
    x = images(8)
    torch.testing.assert_close(inside(x), outside(normalize(x, list(mean), list(std))))
    torch.testing.assert_close(inside.feature_map(x), outside.feature_map(normalize(x, list(mean), list(std))))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
@torch.no_grad()
def test_channels_last_changes_the_layout_and_not_the_features(name: str) -> None:
    encoder = small(name, 16).eval()
    x = images(16)
    expected = encoder.feature_map(x)
    found = encoder.to(memory_format=torch.channels_last).feature_map(x.to(memory_format=torch.channels_last))
    assert found.stride(1) == 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("image_size", "patch"), [(8, 1), (28, 4), (32, 4), (64, 8), (96, 12), (128, 16), (224, 16)])
def test_the_default_patch_tiles_the_image(image_size: int, patch: int) -> None:
    assert default_patch_size(image_size) == patch


def test_a_patch_that_does_not_tile_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"patch_size: 5 does not divide image_size 8; use one of \[1, 2, 4, 8\]"):
        ViTTiny(8, patch_size=5)


@torch.no_grad()
def test_the_map_holds_each_patch_at_its_place() -> None:
    encoder = ViTTiny(12, patch_size=4).eval()
    x = images(12)
    torch.testing.assert_close(encoder.feature_map(x)[:, :, 1, 2], encoder.tokens(x)[:, 1 + 3 * 1 + 2])
    torch.testing.assert_close(encoder(x), encoder.tokens(x)[:, 0])
    encoder.pool = "mean"
    torch.testing.assert_close(encoder(x), encoder.feature_map(x).mean(dim=(2, 3)))


@torch.no_grad()
def test_visible_patches_keep_their_positions() -> None:
    encoder = ViTTiny(8, patch_size=4).eval()
    patches = encoder.embed(images(8))  # (2, 4, D)
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(encoder.encode(patches[:, order])[:, 1:], encoder.encode(patches)[:, 1:][:, order])
    assert encoder.encode(patches[:, :1]).shape == (2, 2, 192)


@torch.no_grad()
def test_raw_pixels_are_features_too() -> None:
    encoder = ENCODERS["pixels"](8)
    assert torch.equal(encoder(images(8)), images(8).flatten(1))
    assert (encoder.feature_dim, encoder.map_shape, list(encoder.parameters())) == (192, (3, 8, 8), [])


@pytest.mark.parametrize("side", [48, 65])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_narrow_shortcut_of_a_large_map_has_the_right_gradient(side: int, layout: torch.memory_format) -> None:
    """torch's own kernel kills the process here (oneDNN issue 6035)."""
    shortcut = Shortcut(8, 16, 2).to(memory_format=layout)
    maps = torch.rand(64, 8, side, side).to(memory_format=layout).requires_grad_()
    found = shortcut(maps)
    found.square().sum().backward()
    exact = maps.detach().double().requires_grad_()
    expected = torch.einsum("bchw,oc->bohw", exact[..., ::2, ::2], shortcut.weight.detach().double()[..., 0, 0])
    expected.square().sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert maps.grad is not None
    torch.testing.assert_close(maps.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_transformer_takes_smaller_images_with_interpolated_positions() -> None:
    encoder = ENCODERS["vit_tiny"](32, patch_size=4).eval()
    encoder.net.encoder.pos_embedding.copy_(torch.randn(encoder.net.encoder.pos_embedding.shape))
    images = torch.rand(2, 3, 12, 12)
    shown = encoder.embed(images)  # (2, 9, 192)
    grid = encoder.net.encoder.pos_embedding[0, 1:].T.reshape(1, 192, 8, 8)
    positions = F.interpolate(grid, (3, 3), mode="bicubic", antialias=True).reshape(192, 9).T
    torch.testing.assert_close(shown, encoder.net.conv_proj(images).flatten(2).transpose(1, 2) + positions)
    assert encoder(images).shape == (2, 192)
    assert encoder.feature_map(images).shape == (2, 192, 3, 3)
    with pytest.raises(ValueError, match="images of 13x13 pixels are no whole patches of 4; resize them"):
        encoder(torch.rand(2, 3, 13, 13))
    row = encoder.tokens(images)[1, 1:]
    torch.testing.assert_close(encoder.feature_map(images)[1, :, 1, 2], row[5])


@pytest.mark.parametrize(
    ("name", "share", "side"), [("resnet18", 96 / 224, 14), ("vit_tiny", 96 / 224, 12), ("vit_tiny", 0.01, 4)]
)
def test_a_nearby_side_is_one_that_the_encoder_takes(name: str, share: float, side: int) -> None:
    encoder = build_encoder({"name": name}, 32)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert nearby_side(encoder, share) == side
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_a_side_that_an_encoder_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="takes images of 32 pixels and none of 3 "):
        nearby_side(build_encoder({"name": "drlim"}, 32), 0.1)
