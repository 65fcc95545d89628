"""Files of a trial that a power cut or an interrupted copy has cut off: noticed, told, and the end is the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_sweep.spec.sweep import from_dump, resolve
from ssl_sweep.training.loop import Stop
from ssl_sweep.trial import run as trial
from ssl_sweep.trialdir import checkpoint, journal
from ssl_sweep.trialdir.events import StageFinished

SPEC: dict[str, Any] = {
    "name": "trial",
    "data": {"source": "digits", "image_size": 8, "train_images": 512},
    "encoder": {"name": "resnet18", "width": 4},
    "method": "autoencoder",
    "pretrain": {"epochs": 3, "batch_size": 256, "optimizer": "adamw", "lr": 0.003},
    "health": {"images": 32, "bank": 32},
    "evaluate": {"knn": {}, "linear": {"epochs": 2}, "finetune": {"epochs": 2}},
    "precision": "fp32",
}
CONFIG = resolve(from_dump(SPEC), {}, 0)
Undisturbed = tuple[Path, dict[str, float]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, trial.run(CONFIG, lambda metrics, step: None, folder, cache=cache)


def run_until(folder: Path, cache: Path, stage: str, epoch: int) -> None:
    """Have a trial leave its checkpoint after an epoch of a stage."""

    def stop(metrics: dict[str, float], step: int) -> None:
        if next(iter(metrics)).startswith(stage) and step == epoch:
            raise Stop("asked to")

    with pytest.raises(Stop):
        trial.run(CONFIG, stop, folder, cache=cache)


def check_end(folder: Path, cache: Path, undisturbed: Undisturbed) -> None:
    """Run on, it ends as if nothing had happened."""
    assert trial.run(CONFIG, lambda metrics, step: None, folder, cache=cache) == undisturbed[1]
    ours, theirs = (torch.load(trial.encoder_path(each))["encoder"] for each in (folder, undisturbed[0]))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    """As a file is whose size had reached the disk and whose end had not."""
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("stage", "epoch", "spoil"),
    [("pretrain", 2, cut_off), ("pretrain", 2, zeroed), ("pretrain", 2, flipped), ("finetune", 1, cut_off)],
)
def test_a_stage_whose_checkpoint_is_damaged_starts_again(
    undisturbed: Undisturbed, tmp_path: Path, cache: Path, stage: str, epoch: int, spoil: Callable[[bytes], bytes]
) -> None:
    run_until(tmp_path, cache, stage, epoch)
    (path,) = tmp_path.rglob("checkpoint.pt")
    path.write_bytes(spoil(path.read_bytes()))
    assert checkpoint.damage(path) is not None
    check_end(tmp_path, cache, undisturbed)
    told = [event.tags["repeated"] for event in journal.read(tmp_path)[0] if "repeated" in getattr(event, "tags", {})]
    assert len(told) == 1
    assert "checkpoint.pt was " in told[0]
    assert path.with_name("checkpoint.pt.damaged").exists()
    reports = [event for event in journal.read(tmp_path)[0] if event.name == "report"]
    assert len({(*event.metrics, event.step) for event in reports}) == len(reports)  # every epoch once


def test_the_finished_stages_are_in_the_journal_too(
    undisturbed: Undisturbed, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_until(tmp_path, cache, "finetune", 1)
    path = tmp_path / "stages.json"
    path.write_bytes(cut_off(path.read_bytes()))
    check_end(tmp_path, cache, undisturbed)
    assert "stages.json is damaged" in caplog.text
    ended = [event.stage for event in journal.read(tmp_path)[0] if isinstance(event, StageFinished)]
    assert ended == ["pretrain", "knn", "linear", "finetune"]
    assert json.loads(path.read_text()).keys() == set(ended)


@pytest.mark.parametrize("end", [b'{"time": 1.0, "event": "rep', bytes(1000)])
def test_what_was_cut_off_as_it_was_written_into_a_journal_is_written_again(
    undisturbed: Undisturbed, tmp_path: Path, cache: Path, end: bytes
) -> None:
    run_until(tmp_path, cache, "linear", 1)
    path = tmp_path / journal.JOURNAL
    with path.open("ab") as file:
        file.write(end)
    check_end(tmp_path, cache, undisturbed)
    told, expected = (
        [(event.metrics.keys(), event.step) for event in journal.read(folder)[0] if event.name == "report"]
        for folder in (tmp_path, undisturbed[0])
    )
    assert told == expected


def test_a_checkpoint_that_is_only_out_of_reach_is_no_damaged_one(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(tmp_path, cache, "pretrain", 2)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint.zipfile, "ZipFile", refused)
    with pytest.raises(OSError, match="Input/output error"):
        trial.run(CONFIG, lambda metrics, step: None, tmp_path, cache=cache)
    assert list(tmp_path.rglob("checkpoint.pt"))


def test_every_way_of_damage_is_one(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    checkpoint.save(path, {"weights": torch.rand(300, 10)})
    whole = path.read_bytes()
    assert checkpoint.damage(path) is None
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position])
        assert checkpoint.damage(path) is not None
    directory = whole.rindex(b"PK\x01\x02")
    for field in (8, 10):  # flags and method of compression, in the archive's list of its files
        changed = bytearray(whole)
        changed[directory + field] = 1 if field == 8 else 8
        path.write_bytes(changed)
        assert checkpoint.damage(path) is not None
    path.write_bytes(flipped(whole))
    assert torch.load(path)["weights"].shape == (300, 10)  # torch reads wrong numbers without a word
    assert "checksum" in (checkpoint.damage(path) or "")
