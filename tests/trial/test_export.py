"""Encoders taken out and put into torchvision's models, which are the independent side of every comparison here."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
import yaml
from safetensors import safe_open
from torch import nn
from typer.testing import CliRunner

import ssl_sweep
from ssl_sweep.cli import app
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder
from ssl_sweep.models.vit import ViTBase
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trial.export import ExportError, Trained, read, read_trial, write
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.record import TrialRecord

RESNET_HEAD, VIT_HEAD = ["fc.weight", "fc.bias"], ["heads.head.weight", "heads.head.bias"]


def pretrained(folder: Path, image_size: int = 32, seed: int = 0, method: str = "moco", **settings: Any) -> Encoder:
    """An encoder in a trial's folder, with batch statistics that are not those of a new net."""
    torch.manual_seed(seed)
    named = {"name": "resnet18", **settings}
    encoder = build_encoder(named, image_size)
    encoder.train()(torch.rand(4, 3, image_size, image_size))
    checkpoint.save(folder / "encoder.pt", {"encoder": encoder.state_dict()})
    config = {"encoder": named, "method": {"name": method}, "data": {"source": "digits", "image_size": image_size}}
    record = {"trial_id": folder.name, "sweep": "demo", "choice": 2, "seed": seed, "knobs": {"method.dim": 64}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**record, "config": config}))
    return encoder.eval()


def exported(folder: Path, **settings: Any) -> tuple[Path, Encoder, dict[str, str]]:
    encoder = pretrained(folder / "trial", **settings)
    path = folder / "out.safetensors"
    return path, encoder, write(read_trial(folder / "trial"), path, {"knn/top1_val": 71.5})


def loaded_as_told(path: Path, described: dict[str, str]) -> tuple[nn.Module, Any]:
    """What the file says of how to load it, done to the letter: the model, and torch's account of the keys."""
    *before, last = described["load"].partition("#")[0].strip().split("; ")
    names: dict[str, Any] = {"timm": timm, "torchvision": torchvision, "torch": torch, "ssl_sweep": ssl_sweep}
    names |= {"safetensors": safetensors, "FILE": str(path)}
    for line in before:
        exec(line, names)
    account = eval(last, names)
    return names["model"].eval(), account


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@torch.no_grad()
def test_torchvisions_resnet_misses_only_its_head(tmp_path: Path, name: str, stem: str) -> None:
    path, encoder, described = exported(tmp_path, name=name, stem=stem)
    model, account = loaded_as_told(path, described)
    assert (account.missing_keys, account.unexpected_keys) == (RESNET_HEAD, [])
    model.fc = nn.Identity()
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model(images), encoder(images), atol=1e-5, rtol=0)
    assert described["stem"] == stem


def test_a_small_stem_does_not_fit_torchvisions_own(tmp_path: Path) -> None:
    path, _, _ = exported(tmp_path, stem="small")
    with pytest.raises(RuntimeError, match=r"size mismatch for conv1\.weight"):
        torchvision.models.resnet18().load_state_dict(safetensors.torch.load_file(path), strict=False)


@torch.no_grad()
def test_torchvisions_vit_misses_only_its_head(tmp_path: Path) -> None:
    path, encoder, described = exported(tmp_path, name="vit_tiny")
    model, account = loaded_as_told(path, described)
    assert (account.missing_keys, account.unexpected_keys) == (VIT_HEAD, [])
    model.heads = nn.Identity()
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model(images), encoder(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm/test_vit", []),
        ("timm/convnext_atto", []),
        ("torchvision/efficientnet_b0", ["classifier.1.weight", "classifier.1.bias"]),
        ("torchvision/vit_b_32", VIT_HEAD),
    ],
)
@torch.no_grad()
def test_a_librarys_model_has_its_own_key_names(tmp_path: Path, name: str, head: list[str]) -> None:
    path, encoder, described = exported(tmp_path, image_size=64, name=name)
    model, account = loaded_as_told(path, described)
    assert (account.missing_keys, account.unexpected_keys) == (head, [])
    if head:
        model.set_submodule(head[0].removesuffix(".weight"), nn.Identity())
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(model(images), encoder(images), atol=1e-5, rtol=0)
    assert torch.equal(read(path)(images), encoder(images))


@pytest.mark.parametrize("patch_size", [16, 32])
def test_vit_base_is_torchvisions(patch_size: int) -> None:
    with torch.device("meta"):
        trained = Trained(
            ViTBase(64, patch_size=patch_size), TrialRecord("one", config={"encoder": {"name": "vit_base"}})
        )
        model = getattr(torchvision.models, f"vit_b_{patch_size}")(image_size=64)
    assert f"torchvision.models.vit_b_{patch_size}(image_size=64)" in ssl_sweep.export.how_to_load(trained)
    shapes = {f"net.{key}": value.shape for key, value in model.state_dict().items() if "heads" not in key}
    assert shapes == {key: value.shape for key, value in trained.encoder.state_dict().items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "resnet18", "width": 8, "normalize": "cifar10"},
        {"name": "vit_tiny", "pool": "mean", "patch_size": 16},
        {"name": "drlim", "dim": 3},
        {"name": "exemplar", "patch_size": 24},
    ],
)
@torch.no_grad()
def test_every_encoder_comes_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    path, encoder, described = exported(tmp_path, **settings)
    images = torch.rand(2, 3, 32, 32)
    again = read(path)
    assert not again.training
    assert torch.equal(again(images), encoder(images))
    told = "ssl_sweep.export.read(FILE)" if settings["name"] != "vit_tiny" else "VisionTransformer(image_size=32, "
    assert told in described["load"]


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    path, _, described = exported(tmp_path, width=16, normalize="imagenet")
    with safe_open(path, "pt") as file:
        assert file.metadata() == described
    plain = {"encoder": "resnet18", "image_size": "32", "width": "16", "stem": "small", "feature_dim": "128"}
    plain |= {"method": "moco", "data": "digits", "sweep": "demo", "trial_id": "trial", "choice": "2", "seed": "0"}
    assert {key: described[key] for key in plain} == plain
    assert json.loads(described["metrics"]) == {"knn/top1_val": 71.5}
    assert json.loads(described["knobs"]) == {"method.dim": 64}
    assert "mean (0.485, 0.456, 0.406)" in described["input"]
    assert re.fullmatch(r"\d+\.\d+.*", described["ssl_sweep"])


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    path, _, _ = exported(tmp_path)
    before = path.read_bytes()
    trained = read_trial(tmp_path / "trial")
    with pytest.raises(ExportError, match=r"exists already; .* --force"):
        write(trained, path, {})
    with pytest.raises(ExportError, match="there is no folder"):
        write(trained, tmp_path / "none" / "out.safetensors", {})
    with pytest.raises(ExportError, match=r"name it out\.safetensors"):
        write(trained, tmp_path / "out.pt", {})
    assert path.read_bytes() == before
    write(trained, path, {}, force=True)
    assert path.read_bytes() != before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.safetensors", "trial"]


def test_an_encoder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the trial has not started"):
        read_trial(tmp_path / "none")
    pretrained(tmp_path / "trial", method="supervised")
    (tmp_path / "trial" / "encoder.pt").unlink()
    with pytest.raises(ExportError, match="no encoder: method supervised does not pretrain; name a trial of a"):
        read_trial(tmp_path / "trial")
    pretrained(tmp_path / "begun")
    (tmp_path / "begun" / "encoder.pt").unlink()
    with pytest.raises(ExportError, match="no encoder: the trial has not pretrained yet; wait"):
        read_trial(tmp_path / "begun")
    pixels = Trained(ENCODERS["pixels"](8), TrialRecord("one", config={"encoder": {"name": "pixels"}}))
    with pytest.raises(ExportError, match="encoder pixels has no weights"):
        write(pixels, tmp_path / "out.safetensors", {})


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    with pytest.raises(ExportError, match="cannot be read as safetensors"):
        read(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ExportError, match="cannot be read as safetensors"):
        read(path)
    safetensors.torch.save_file({"fc.weight": torch.ones(2)}, path)
    with pytest.raises(ExportError, match="not written by `ssl-sweep export`"):
        read(path)
    safetensors.torch.save_file({}, path, {"encoder_settings": '{"name": "resnet19"}', "image_size": "8"})
    with pytest.raises(ExportError, match="this version of ssl_sweep cannot build"):
        read(path)
    safetensors.torch.save_file({}, path, {"encoder_settings": '{"name": "resnet18"}', "image_size": "8"})
    with pytest.raises(ExportError, match="the weights are not those of its encoder"):
        read(path)


def test_an_encoder_file_that_runs_code_is_not_run(tmp_path: Path) -> None:
    pretrained(tmp_path / "trial")
    torch.save({"encoder": Path("x")}, tmp_path / "trial" / "encoder.pt")
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        read_trial(tmp_path / "trial")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path)


def make_sweep(storage: Storage, scores: list[list[float | None]], objective: str = "maximize knn/top1_val") -> Ledger:
    """A sweep of so many choices and seeds, with their scores; None for a trial that failed."""
    sizes = [8 * (choice + 1) for choice in range(len(scores))]
    search = {"space": {"method.dim": sizes}, "seeds": len(scores[0]), "objective": objective}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "moco"}
    spec = from_dump({"name": "demo", **base, "evaluate": {"knn": {}}, "search": search})
    storage.sweep("demo").mkdir(exist_ok=True)
    ledger = open_ledger(storage.ledger_url, spec)
    metric = objective.split()[1]
    for row in scores:
        choice = ledger.ask()
        assert choice is not None
        for trial, score in zip(choice.trials, row, strict=True):
            results = {metric: score} if score is not None else None
            state = "FAILED" if score is None else "COMPLETE"
            ledger.update(Trial(**{**vars(trial), "state": state, "results": results}))
            if score is not None:
                pretrained(storage.trial("demo", trial.trial_id), 8, trial.seed, width=8)
    return ledger


def export(storage: Storage, *words: object, expect: int = 0) -> str:
    ran = CliRunner().invoke(app, ["export", *map(str, words), "--storage", str(storage.root)], catch_exceptions=False)
    assert ran.exit_code == expect, ran.output
    return ran.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("scores", "objective", "best"),
    [
        ([[50.0, 52.0], [60.0, 70.0], [90.0, 10.0]], "maximize knn/top1_val", (1, 1)),
        ([[50.0, 52.0], [60.0, 70.0], [90.0, 10.0]], "minimize knn/top1_val", (2, 1)),
        ([[50.0, 50.0], [50.0, 50.0]], "maximize knn/top1_val", (0, 0)),
        ([[50.0, 52.0], [99.0, None]], "maximize knn/top1_val", (0, 1)),  # one lucky seed is no mean
        ([[None, 52.0], [99.0, None]], "maximize knn/top1_val", (1, 0)),
        ([[float("nan"), 52.0], [40.0, 40.0]], "maximize knn/top1_val", (1, 0)),
    ],
)
def test_the_best_trial_is_exported(
    storage: Storage, scores: list[list[float | None]], objective: str, best: tuple[int, int]
) -> None:
    ledger = make_sweep(storage, scores, objective)
    printed = export(storage, "demo", storage.root / "out.safetensors")
    with safe_open(storage.root / "out.safetensors", "pt") as file:
        described = file.metadata()
    expected = ledger.choice(best[0]).trials[best[1]]
    assert described["trial_id"] == expected.trial_id
    assert expected.trial_id in printed
    assert f"dim={8 * (best[0] + 1)} seed={best[1]}" in printed
    assert "load: encoder = ssl_sweep.export.read" in printed
    assert "input: images (B, 3, 8, 8) in [0, 1], not normalised" in printed


def test_a_trial_is_exported_by_the_beginning_of_its_id(storage: Storage) -> None:
    ledger = make_sweep(storage, [[50.0, 52.0], [60.0, None]])
    worst = ledger.trials[0].trial_id
    out = storage.root / "out.safetensors"
    assert worst in export(storage, "demo", "--trial", worst[:8], out)
    assert "exists already" in export(storage, "demo", "--trial", worst[:8], out, expect=2)
    assert worst in export(storage, "demo", "--trial", worst[:8], out, "--force")
    assert "4 trials begin with ''" in export(storage, "demo", "--trial", "", out, "--force", expect=2)
    wrong = worst[:-1] + "x"
    assert f"did you mean '{worst}'" in export(storage, "demo", "--trial", wrong, out, "--force", expect=2)
    failed = ledger.trials[3].trial_id
    assert "the trial has not started" in export(storage, "demo", "--trial", failed, out, "--force", expect=2)


@pytest.mark.parametrize(
    ("knobs", "remedy"),
    [({}, "name a sweep of a method that pretrains"), ({"weights": "a.safetensors"}, "the weights are those of a.saf")],
)
def test_a_sweep_that_pretrains_nothing_says_so(storage: Storage, knobs: dict[str, Any], remedy: str) -> None:
    base = {"name": "demo", "data": {"source": "digits", "image_size": 8}, "evaluate": {"knn": {}}}
    spec = from_dump({**base, "encoder": {"name": "resnet18", **knobs}, "method": "supervised"})
    storage.sweep("demo").mkdir()
    open_ledger(storage.ledger_url, spec)
    said = export(storage, "demo", storage.root / "out.safetensors", expect=2)
    assert f"'demo' has no encoder to export: method supervised does not pretrain; {remedy}" in said


def test_a_sweep_without_an_encoder_is_refused(storage: Storage) -> None:
    make_sweep(storage, [[None]])
    out = storage.root / "out.safetensors"
    assert "no complete trial with an encoder" in export(storage, "demo", out, expect=2)
    assert "no sweep named 'dmeo' here; there is demo" in export(storage, "dmeo", out, expect=2)
    assert not out.exists()
