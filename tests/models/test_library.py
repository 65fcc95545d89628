"""Encoders of timm and torchvision: their maps and features, their own key names, and what is refused, in words."""

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from ssl_sweep.knobs import knobs
from ssl_sweep.models.batchnorm import split_batchnorm
from ssl_sweep.models.decoders import mirrored_decoder
from ssl_sweep.models.encoders import Encoder, build_encoder, encoder_class
from ssl_sweep.models.global_norm import global_batchnorm
from ssl_sweep.models.library import LibraryError, library_encoder

# maps with the channels first and last, patches with and without class tokens, layers between pooling and classifier,
# several streams, widths that the meta device cannot compute
MODELS = {
    "timm/convnext_atto": (64, (320, 2, 2), 320),
    "timm/mobilenetv3_small_050": (64, (288, 2, 2), 1024),
    "timm/resnetv2_18": (64, (512, 2, 2), 512),
    "timm/vit_tiny_patch16_224": (64, (192, 4, 4), 192),
    "timm/deit_tiny_distilled_patch16_224": (64, (192, 4, 4), 192),
    "timm/cait_xxs24_224": (64, (192, 4, 4), 192),
    "timm/swin_tiny_patch4_window7_224": (64, (768, 2, 2), 768),
    "timm/coat_tiny": (64, (152, 1, 1), 152),
    "torchvision/efficientnet_b0": (64, (1280, 2, 2), 1280),
    "torchvision/densenet121": (64, (1024, 2, 2), 1024),
    "torchvision/regnet_x_400mf": (64, (400, 2, 2), 400),
    "torchvision/swin_t": (64, (768, 2, 2), 768),
    "torchvision/squeezenet1_1": (64, (512, 3, 3), 512),
    "torchvision/vit_b_32": (96, (768, 3, 3), 768),
    "torchvision/maxvit_t": (224, (512, 7, 7), 512),
    "torchvision/googlenet": (64, (1024, 2, 2), 1024),
}


def built(name: str, image_size: int = 64, **knobs: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder({"name": name, **knobs}, image_size)


@pytest.mark.parametrize("name", MODELS)
def test_its_shapes_are_those_that_it_declares(name: str) -> None:
    size, map_shape, feature_dim = MODELS[name]
    with torch.device("meta"):
        encoder = built(name, size).eval()
    images = torch.empty(2, 3, size, size, device="meta")
    assert (encoder.map_shape, encoder.feature_dim) == (map_shape, feature_dim)
    assert encoder.feature_map(images).shape == (2, *map_shape)
    assert encoder(images).shape == (2, feature_dim)


@pytest.mark.parametrize("name", ["timm/convnext_atto", "timm/vit_tiny_patch16_224"])
@torch.no_grad()
def test_features_are_what_timm_gives_without_a_classifier(name: str) -> None:
    encoder = built(name).eval()
    size = {"img_size": 64} if "vit" in name else {}
    theirs = timm.create_model(name.removeprefix("timm/"), num_classes=0, **size).eval()
    theirs.load_state_dict({key.removeprefix("net."): value for key, value in encoder.state_dict().items()})
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images), theirs(images))
    assert torch.equal(encoder(images), encoder.feature_map(images).mean(dim=(2, 3))) is False  # its norm comes after


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("efficientnet_b0", ["classifier.1.weight", "classifier.1.bias"]),
        ("resnet18", ["fc.weight", "fc.bias"]),
        ("vit_b_32", ["heads.head.weight", "heads.head.bias"]),
        ("mobilenet_v3_small", ["classifier.3.weight", "classifier.3.bias"]),
    ],
)
@torch.no_grad()
def test_only_the_last_layer_of_torchvisions_model_is_missing(name: str, head: list[str]) -> None:
    encoder = built(f"torchvision/{name}", 224).eval()
    theirs = torchvision.models.get_model(name, weights=None).eval()
    state = {key.removeprefix("net."): value for key, value in encoder.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (head, [])
    theirs.set_submodule(head[0].removesuffix(".weight"), nn.Identity())
    images = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(encoder(images), theirs(images))


@torch.no_grad()
def test_a_map_is_the_one_that_the_model_pools() -> None:
    images = torch.rand(2, 3, 64, 64)
    for name in ("timm/resnet10t", "torchvision/densenet121", "torchvision/swin_t", "torchvision/shufflenet_v2_x0_5"):
        encoder = built(name).eval()
        torch.testing.assert_close(encoder.feature_map(images).mean(dim=(2, 3)), encoder(images), msg=name)
    vit = built("torchvision/vit_b_32", 96).eval()
    tokens = vit.net.encoder(torch.cat([vit.net.class_token, vit.net._process_input(images.new_ones(1, 3, 96, 96))], 1))
    torch.testing.assert_close(vit.feature_map(images.new_ones(1, 3, 96, 96))[0, :, 1, 2], tokens[0, 1 + 5])


def test_the_same_seed_gives_the_same_weights_first_and_later() -> None:
    library_encoder.cache_clear()  # a new class: its shapes are not known yet
    first, second = built("timm/test_convnext").state_dict(), built("timm/test_convnext").state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_knobs_reach_the_model_or_are_refused() -> None:
    encoder = built("timm/convnext_atto", drop_path_rate=0.3)
    assert max(getattr(layer, "drop_prob", 0.0) for layer in encoder.modules()) == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"encoder\.drop_path_rate: timm/vgg11 has no drop_path_rate; leave it out"):
        built("timm/vgg11", drop_path_rate=0.3)
    assert knobs.check(encoder_class("timm/convnext_atto"), {}, "x") == {
        "normalize": "none", "drop_path_rate": None, "drop_rate": None, "weights": None, "from": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("timm/vit_tiny_patch16_224", 40, "patches of 16 pixels leave out 8 .*; use 32 or 48 or 224"),
        ("timm/convnext_atto", 30, "patches of 4 pixels leave out 2 pixels at two borders.*; use 32 or 224"),
        ("timm/xcit_nano_12_p16_224", 100, "does not take images of 100 pixels.*; use 96 or 112 or 224"),
        ("torchvision/maxvit_t", 64, "maxvit_t does not take images of 64 pixels.*; use 224"),
        ("torchvision/inception_v3", 32, "use 80 or 299"),
    ],
)  # fmt: skip
def test_a_size_that_it_does_not_take_is_refused_with_sizes_that_it_takes(name: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^data\.image_size: .*{message}$"):
        built(name, size)
    taken = [int(number) for number in re.findall(r"\d+", message.rpartition("use ")[2])]
    for good in taken:
        with torch.device("meta"):
            assert built(name, good).image_size == good


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/convnext_ato", r"timm has no model 'convnext_ato'; did you mean 'timm/convnext_atto' or"),
        ("torchvision/zzz", r"no model 'zzz'; torchvision\.models\.list_models\(.*\) lists its \d+ models"),
        ("efficientnet_b0", r"did you mean 'timm/efficientnet_b0' or 'torchvision/efficientnet_b0'\?"),
    ],
)  # fmt: skip
def test_an_unknown_model_is_told_with_similar_names(name: str, message: str) -> None:
    with pytest.raises(knobs.UnknownNameError, match=message) as raised:
        knobs.load("encoders", name)
    assert len(str(raised.value)) < 200


def test_a_missing_library_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    library_encoder.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("ssl_sweep.models.library.find_spec", lambda name: None if name == "timm" else True)
    with pytest.raises(LibraryError, match=r"timm is not installed; .*: pip install 'ssl-sweep\[timm\]'"):
        library_encoder("timm/convnext_atto")
    with pytest.raises(knobs.UnknownNameError, match="torchvision/efficientnet_b0"):
        knobs.load("encoders", "efficientnet_b0")


@pytest.mark.parametrize("map_shape", [(7, 3, 5), (5, 1, 6), (8, 30, 30), (4, 1, 1)])
def test_a_decoder_takes_maps_of_any_shape(map_shape: tuple[int, int, int]) -> None:
    encoder = Encoder(nn.Identity(), 30, map_shape)
    images = mirrored_decoder(encoder)(torch.rand(2, *map_shape))
    assert images.shape == (2, 3, 30, 30)
    assert images.unique().numel() > 1


def in_groups(net: nn.Module) -> nn.Module:
    return split_batchnorm(net, 1)


def over_the_global_batch(net: nn.Module) -> nn.Module:
    return global_batchnorm(net, torch.device("cpu"))


@pytest.mark.parametrize("change", [in_groups, over_the_global_batch])
def test_a_batch_normalisation_keeps_the_layers_that_it_has_of_its_own(
    change: Callable[[nn.Module], nn.Module],
) -> None:
    plain, changed = (built("timm/mobilenetv3_small_050", 32).double() for _ in range(2))  # each has an activation
    change(changed)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(changed(images), plain(images))
    torch.testing.assert_close(changed.eval()(images), plain.eval()(images))


def test_so_does_the_one_for_gpus() -> None:
    synced = global_batchnorm(built("timm/mobilenetv3_small_050", 32), torch.device("cuda"))
    norms = [layer for layer in synced.modules() if isinstance(layer, nn.SyncBatchNorm)]
    assert norms
    assert any(isinstance(layer, nn.Hardswish) for norm in norms for layer in norm.children())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(synced.eval()(images), built("timm/mobilenetv3_small_050", 32).eval()(images))
