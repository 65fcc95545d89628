"""Trials that begin from a file of weights: evaluated as it is, pretrained further, searched, and pinned."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from ssl_sweep.knobs.pins import used_by
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.weights import WeightsError, digest
from ssl_sweep.service.spec_check import parse_submitted
from ssl_sweep.spec.file import check_spec, load_spec
from ssl_sweep.spec.sweep import SweepSpec, from_dump, grid, resolve
from ssl_sweep.spec.weights import check_weights, weight_pins
from ssl_sweep.sweep.pins import find_pins
from ssl_sweep.trial import run as trial
from ssl_sweep.trial.stage_keys import stage_key

SETTINGS = {"name": "resnet18", "width": 4}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data, with two files of weights."""
    monkeypatch.setenv("SSL_SWEEP_DATA", str(tmp_path))
    for seed, name in enumerate(("a", "b")):
        write(tmp_path / f"{name}.safetensors", seed)
    return tmp_path


def write(path: Path, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    encoder = build_encoder(SETTINGS, 8)
    safetensors.torch.save_file({**encoder.net.state_dict(), "fc.weight": torch.zeros(2)}, path)
    return encoder


def spec_of(**changes: Any) -> SweepSpec:
    data = {"source": "digits", "image_size": 8, "train_images": 64}
    base = {"name": "begun", "data": data, "encoder": SETTINGS, "method": "supervised", "evaluate": {"knn": {"k": 5}}}
    return check_spec(base | {"precision": "fp32"} | changes)


def run(spec: SweepSpec, choice: dict[str, Any], workdir: Path, cache: Path) -> dict[str, float]:
    config = resolve(spec, choice, 0)
    config["pins"] = used_by(config, find_pins(spec))
    return trial.run(config, lambda metrics, step: None, workdir, cache=cache)


def test_supervised_evaluates_the_file_as_it_is(folder: Path, cache: Path) -> None:
    spec = spec_of(search={"space": {"encoder.weights": [None, "a.safetensors", "b.safetensors"]}})
    scores = [run(spec, choice, folder / str(index), cache) for index, choice in enumerate(grid(spec))]
    assert len({str(score) for score in scores}) == 3
    method = {"method": "autoencoder", "pretrain": {"epochs": 1, "lr": 1e-12, "weight_decay": 0.0}}
    run(spec_of(**method, encoder={**SETTINGS, "weights": "a.safetensors"}), {}, folder / "pretrained", cache)
    state = torch.load(folder / "pretrained" / "encoder.pt", weights_only=True)["encoder"]
    expected = write(folder / "again.safetensors", 0).net.layer1[0].conv1.weight
    torch.testing.assert_close(state["net.layer1.0.conv1.weight"], expected, check_stride=False)


def test_cases_and_branches_name_files(folder: Path) -> None:
    spec = spec_of(search={"cases": {"random": {}, "published": {"encoder.weights": "a.safetensors"}}})
    assert [resolve(spec, choice, 0)["encoder"]["weights"] for choice in grid(spec)] == [None, "a.safetensors"]
    branches = {"encoder": {"choices": [{**SETTINGS, "weights": "b.safetensors"}, "vit_tiny"]}}
    for one in (spec, spec_of(search={"space": branches})):
        again = from_dump(one.model_dump(mode="json"))
        assert len(weight_pins(again)) == 1
        assert check_weights(again) == [f"encoder.weights: {next(iter(weight_pins(one))).split()[1]}: not used by "
                                        "resnet18: fc.weight"]  # fmt: skip


def test_keys_of_stages_are_the_old_ones_without_weights_and_have_the_hash_with_them(folder: Path) -> None:
    spec = spec_of(search={"space": {"encoder.weights": [None, "a.safetensors"]}})
    without, begun = (resolve(spec, choice, 0) for choice in grid(spec))
    old = {**without, "encoder": {key: value for key, value in without["encoder"].items() if key != "weights"}}
    assert stage_key(old, "knn", "fp32") == stage_key(without, "knn", "fp32")
    pins = find_pins(spec)
    assert pins == {"encoder.weights a.safetensors": digest(folder / "a.safetensors")}
    assert (used_by(without, pins), used_by(begun, pins)) == ({}, pins)
    key = stage_key({**begun, "pins": used_by(begun, pins)}, "knn", "fp32")
    write(folder / "a.safetensors", 7)
    assert stage_key({**begun, "pins": used_by(begun, find_pins(spec))}, "knn", "fp32") != key


def test_a_changed_file_ends_a_trial_in_words(folder: Path, cache: Path) -> None:
    spec = spec_of(encoder={**SETTINGS, "weights": "a.safetensors"})
    config = resolve(spec, {}, 0)
    config["pins"] = used_by(config, find_pins(spec))
    write(folder / "a.safetensors", 7)
    with pytest.raises(WeightsError, match="has changed since the sweep began"):
        trial.run(config, lambda metrics, step: None, folder / "trial", cache=cache)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.pth", r"encoder\.weights: 'a\.pth': may run code when it is read.*; convert it once: python -c \"import"),
        ("a.onnx", r"encoder\.weights: 'a\.onnx': is no safetensors file; name a file that ends in \.safetensors"),
        ("", r"encoder\.weights: '': "),
    ],
)
def test_other_files_are_refused_with_the_spec(file: str, message: str, folder: Path) -> None:
    with pytest.raises(SpecError, match=message):
        spec_of(encoder={**SETTINGS, "weights": file})


def test_files_that_do_not_fit_are_named_at_their_lines(folder: Path) -> None:
    (folder / "spec.yaml").write_text(
        "name: x\n"
        "data: {source: digits, image_size: 8}\n"
        "encoder: {name: resnet18, width: 8}\n"
        "method: supervised\n"
        "evaluate: {knn: {}}\n"
        "search:\n"
        "  cases:\n"
        "    random: {}\n"
        "    wide: {encoder.weights: a.safetensors}\n"
        "    gone:\n"
        "      encoder.weights: none.safetensors\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(folder / "spec.yaml")
    wide, gone = str(caught.value).splitlines()
    assert f"{folder}/spec.yaml:9: search.cases.wide.encoder.weights: 'a.safetensors': {folder}/a.safetensors: " in wide
    assert "conv1.weight is (4, 3, 3, 3) there, and (8, 3, 3, 3) in resnet18" in wide
    assert f"{folder}/spec.yaml:11: search.cases.gone.encoder.weights: 'none.safetensors': " in gone
    with pytest.raises(SpecError, match=r"--set encoder\.weights=b\.safetensors: encoder\.weights: 'b\.safetensors': "):
        load_spec(folder / "spec.yaml", ["search.cases={}", "encoder.weights=b.safetensors"])


def test_a_service_reads_files_below_its_roots_only(folder: Path) -> None:
    text = "name: x\ndata: {source: digits, image_size: 8}\nmethod: supervised\nevaluate: {knn: {}}\n"

    def submitted(weights: str, width: int = 4) -> SweepSpec:
        encoder = f"encoder: {{name: resnet18, width: {width}, weights: {weights}}}\n"
        return parse_submitted(text + encoder, [], [folder])

    assert submitted("a.safetensors").encoder["weights"] == "a.safetensors"
    for outside in ("../a.safetensors", "/etc/a.safetensors"):
        with pytest.raises(SpecError, match=r"encoder\.weights: .* is outside the folders that the service reads"):
            submitted(outside)
    with pytest.raises(SpecError, match="there is no such file"):
        submitted("none.safetensors")
    with pytest.raises(SpecError, match=r"conv1\.weight is \(4, 3, 3, 3\) there, and \(8, 3, 3, 3\) in resnet18"):
        submitted("a.safetensors", width=8)
