"""Files of weights: those of timm, torchvision and our own export are loaded; what does not fit is refused in words."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from ssl_sweep.models.encoders import Encoder, build_encoder
from ssl_sweep.models.weights import CONVERSION, WeightsError, conversion, digest, load_weights, unused_keys


def built(name: str, size: int = 64, **knobs: Any) -> Encoder:
    return build_encoder({"name": name, **knobs}, size)


def saved(path: Path, model: torch.nn.Module, **metadata: str) -> Path:
    safetensors.torch.save_file(model.state_dict(), path, metadata)
    return path


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm/convnext_atto", ["head.fc.weight", "head.fc.bias"]),
        ("timm/mobilenetv3_small_050", ["classifier.weight", "classifier.bias"]),
        ("torchvision/efficientnet_b0", ["classifier.1.weight", "classifier.1.bias"]),
        ("torchvision/vit_b_32", ["heads.head.weight", "heads.head.bias"]),
    ],
)
@torch.no_grad()
def test_published_files_are_loaded_without_their_heads(name: str, head: list[str], tmp_path: Path) -> None:
    library, model = name.split("/")
    sized = {"image_size": 64} if "vit" in model else {}
    theirs = timm.create_model(model) if library == "timm" else torchvision.models.get_model(model, **sized)
    path = saved(tmp_path / "a.safetensors", theirs)
    encoder = built(name)
    assert sorted(load_weights(encoder, path, name, digest(path))) == sorted(head)
    state = theirs.state_dict()
    assert all(torch.equal(value, state[key.removeprefix("net.")]) for key, value in encoder.state_dict().items())


def test_torchvisions_resnet_fits_ours_and_counters_may_be_missing(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18()
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    encoder = built("resnet18", stem="imagenet")
    assert not encoder.begun
    assert load_weights(encoder, tmp_path / "a.safetensors", "resnet18", None) == ["fc.bias", "fc.weight"]
    assert encoder.begun
    assert torch.equal(encoder.net.layer4[1].bn2.weight, theirs.layer4[1].bn2.weight)


@pytest.mark.parametrize(
    ("made", "wanted", "message"),
    [
        ({"name": "resnet18"}, {"name": "resnet18", "stem": "imagenet"}, r"\(64, 3, 3, 3\) there.*stem: small"),
        ({"name": "resnet18", "stem": "imagenet"}, {"name": "resnet18"}, r"conv1\.weight is .*\.stem: imagenet$"),
        ({"name": "resnet34"}, {"name": "resnet18"}, r"is of another model: it has layer1\.2\.bn1.* resnet18 lacks"),
        ({"name": "resnet18"}, {"name": "resnet34"}, r"lacks layer1\.2.* \d+ more of resnet34; use a file of"),
        ({"name": "resnet18"}, {"name": "timm/convnext_atto"}, r"lacks stem.* of timm/convnext_atto; it has bn1"),
        ({"name": "resnet18"}, {"name": "pixels"}, "pixels has no weights; leave encoder.weights out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_keys_and_shapes(
    made: dict[str, Any], wanted: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.safetensors", built(**made).net)
    with torch.device("meta"):
        encoder = built(**wanted)
    with pytest.raises(WeightsError, match=message):
        unused_keys(path, encoder, wanted["name"])


def test_quantised_and_broken_weights_are_refused_by_key(tmp_path: Path) -> None:
    encoder, path = built("resnet18", width=4), tmp_path / "a.safetensors"
    state = encoder.net.state_dict()
    for narrow in (torch.int8, torch.float8_e4m3fn):
        safetensors.torch.save_file({**state, "conv1.weight": state["conv1.weight"].to(narrow)}, path)
        with pytest.raises(WeightsError, match=r"a\.safetensors: conv1\.weight is (I8|F8_E4M3) there; use"):
            unused_keys(path, encoder, "resnet18")
    for wide in (torch.float16, torch.bfloat16, torch.float64):
        safetensors.torch.save_file({**state, "conv1.weight": state["conv1.weight"].to(wide)}, path)
        assert load_weights(encoder, path, "resnet18", None) == []
    for value in (float("nan"), float("inf")):
        before = {key: tensor.clone() for key, tensor in encoder.net.state_dict().items()}
        safetensors.torch.save_file({**state, "conv1.weight": torch.full_like(state["conv1.weight"], value)}, path)
        with pytest.raises(WeightsError, match=r"a\.safetensors: conv1\.weight: has values that are infinite or no"):
            load_weights(encoder, path, "resnet18", None)
        assert all(torch.equal(before[key], tensor) for key, tensor in encoder.net.state_dict().items())


def test_a_file_of_ours_says_what_it_was_written_for(tmp_path: Path) -> None:
    made = built("vit_tiny", 32, patch_size=8)
    path = saved(tmp_path / "a.safetensors", made.net, encoder_settings='{"name": "vit_tiny"}', image_size="32")
    with pytest.raises(WeightsError, match=r'it was written for {"name": "vit_tiny"} at image_size 32'):
        unused_keys(path, built("vit_tiny", 64, patch_size=8), "vit_tiny")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    encoder = built("resnet18", width=4)
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="is no safetensors file"):
        unused_keys(tmp_path / "a.safetensors", encoder, "resnet18")
    with pytest.raises(WeightsError, match="there is no such file; give an absolute path"):
        unused_keys(tmp_path / "none.safetensors", encoder, "resnet18")
    path = saved(tmp_path / "a.safetensors", encoder.net)
    pinned = digest(path)
    saved(path, built("resnet18", width=4).net)
    with pytest.raises(WeightsError, match=r"has changed since the sweep began: it is sha256:.* put the old file back"):
        load_weights(encoder, path, "resnet18", pinned)


def convert(folder: Path, checkpoint: object) -> subprocess.CompletedProcess[str]:
    torch.save(checkpoint, folder / "my model.pth")
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = conversion("my model.pth")
    return subprocess.run(command, shell=True, check=False, cwd=folder, env=path, text=True, capture_output=True)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"student": {}, "teacher": state, "model": "resnet18"},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.95), resume=None)},
    ],
)
def test_the_command_for_pickles_works(wrapped: Any, tmp_path: Path) -> None:
    encoder = built("resnet18", width=4)
    ran = convert(tmp_path, wrapped({f"module.{key}": value for key, value in encoder.net.state_dict().items()}))
    assert ran.returncode == 0, ran.stderr
    other = built("resnet18", width=4)
    assert load_weights(other, tmp_path / "my model.safetensors", "resnet18", None) == []
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in encoder.state_dict().items())
    assert not re.search(r'["$`\\!]', CONVERSION)  # it is quoted for a shell


@pytest.mark.parametrize(
    ("checkpoint", "keys"), [({"nets": {"a": torch.ones(1)}, "epoch": 3}, "nets, epoch"), ([], "")]
)
def test_the_command_for_pickles_says_where_no_weights_are(checkpoint: object, keys: str, tmp_path: Path) -> None:
    ran = convert(tmp_path, checkpoint)
    assert ran.returncode == 1
    assert ran.stderr.startswith("my model.pth: has no weights; write the state_dict() of the encoder with torch.save")
    assert ran.stderr.strip().endswith(f"the keys here are: {keys}".strip())
    assert not (tmp_path / "my model.safetensors").exists()


def test_the_command_says_that_a_pickle_is_a_whole_model(tmp_path: Path) -> None:
    torch.save(built("resnet18", width=4), tmp_path / "whole.pth")
    words = [sys.executable, "-c", CONVERSION, "whole.pth", "whole.safetensors"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("whole.pth: is damaged, or a whole model: where its code is, save model.state_dict()")
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "whole.safetensors").exists()
