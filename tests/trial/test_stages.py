"""Trials that share a pretraining: made once, whoever makes it and however that one ends."""

import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from ssl_sweep.spec.sweep import from_dump, resolve
from ssl_sweep.training import loop
from ssl_sweep.training.loop import Diverged, Stop
from ssl_sweep.trial import attempt, stage_keys, stages
from ssl_sweep.trial import run as trial
from ssl_sweep.trialdir import journal, locks, waits
from ssl_sweep.trialdir.events import PretrainingFinished, PretrainingStarted, TagsSet
from ssl_sweep.trialdir.record import TrialRecord

EPOCHS = 3
SPEC: dict[str, Any] = {
    "name": "shared",
    "data": {"source": "digits", "image_size": 8, "train_images": 256},
    "encoder": {"name": "resnet18", "width": 4},
    "method": "autoencoder",
    "pretrain": {"epochs": EPOCHS, "batch_size": 128, "optimizer": "adamw", "lr": 0.003},
    "health": {"images": 32, "bank": 32},
    "evaluate": {"knn": {}},
    "precision": "fp32",
}
OTHER = {"finetune": {"epochs": 1}}  # another evaluation of the same pretraining
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ssl_sweep.trial.run"])


def config(**changes: Any) -> dict[str, Any]:
    return resolve(from_dump({**SPEC, **changes}), {}, 0)


def ignore(metrics: dict[str, float], step: int) -> None:
    pass


def run(sweep: Path, name: str, cache: Path, report: loop.Report = ignore, **changes: Any) -> dict[str, float]:
    folder = sweep / "trials" / name
    return trial.run(config(**changes), report, folder, cache=cache, stages=sweep / "stages")


def start(sweep: Path, name: str, cache: Path, **changes: Any) -> multiprocessing.process.BaseProcess:
    """The same in a process of its own."""
    shared = {"cache": cache, "stages": sweep / "stages"}
    process = PROCESSES.Process(
        target=trial.run, args=(config(**changes), print, sweep / "trials" / name), kwargs=shared
    )
    process.start()
    return process


def wait_for(condition: Callable[[], Any], process: multiprocessing.process.BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), process.exitcode
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in journal.read(folder)[0] if event.name == kind]


def tags(folder: Path) -> list[dict[str, str]]:
    return [event.tags for event in events(folder, "tags")]


def stage_of(sweep: Path, **changes: Any) -> Path:
    return sweep / "stages" / stage_keys.stage_key(config(**changes), "pretrain", "fp32")


def makers(sweep: Path, **changes: Any) -> list[str]:
    """Who set about a pretraining, in their order."""
    return [event.trial for event in events(stage_of(sweep, **changes), "attempt")]


def told(folder: Path) -> list[tuple[int, float]]:
    """Epoch and loss of each report of the pretraining."""
    reports = [event for event in events(folder, "report") if "pretrain/loss" in event.metrics]
    return [(event.step, event.metrics["pretrain/loss"]) for event in reports]


def assert_same_encoder(ours: Path, theirs: Path) -> None:
    first, second = (torch.load(trial.encoder_path(folder), weights_only=True)["encoder"] for folder in (ours, theirs))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, dict[str, float]]:
    """A trial that shares nothing."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, trial.run(config(evaluate={"knn": {}, **OTHER}), ignore, folder, cache=cache)


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folder of every epoch that is trained in this process."""
    trained: list[str] = []
    train_epoch = loop._Run.train_epoch

    def counted(run: Any) -> None:
        trained.append(run.stage.folder.name)
        train_epoch(run)

    monkeypatch.setattr(loop._Run, "train_epoch", counted)
    return trained


def test_the_second_trial_picks_up_what_the_first_made(
    alone: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path, epochs: list[str]
) -> None:
    seen: list[tuple[int, str]] = []
    first = run(tmp_path, "first", cache)
    second = run(
        tmp_path, "second", cache, lambda metrics, step: seen.append((step, next(iter(metrics)))), evaluate=OTHER
    )
    assert epochs.count(stage_of(tmp_path).name) == EPOCHS
    assert {**first, **second} == alone[1]  # to the last digit
    ours, theirs = (tmp_path / "trials" / name for name in ("second", "first"))
    assert_same_encoder(ours, alone[0])
    # its journal, and so its MLflow run, and its runner have what they would have had
    assert told(ours) == told(theirs) == told(alone[0])
    assert [step for step, name in seen if name.startswith("pretrain/")] == [1, 2, 3]
    assert [tags(folder) for folder in (ours, theirs)] == [[{"pretrained_by": "first"}], []]
    for path in ("artifacts/pictures_before.png", "artifacts/pictures.png"):
        assert path in [event.path for event in events(ours, "artifact")]
        assert (ours / path).read_bytes() == (alone[0] / path).read_bytes()
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_of_two_that_start_at_once_one_makes_it(
    alone: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path
) -> None:
    processes = [start(tmp_path, name, cache, evaluate=OTHER) for name in ("a", "b")]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(makers(tmp_path)) == 1
    for name in ("a", "b"):
        assert told(tmp_path / "trials" / name) == told(alone[0])
        results = run(tmp_path, name, cache, evaluate=OTHER)  # what it noted
        assert results == {metric: value for metric, value in alone[1].items() if not metric.startswith("knn")}


def test_when_the_maker_is_killed_the_one_that_waits_goes_on_from_its_checkpoint(
    tmp_path: Path, cache: Path, epochs: list[str]
) -> None:
    long = {"pretrain": {**SPEC["pretrain"], "epochs": 12}}
    undisturbed = trial.run(config(**long), ignore, tmp_path / "undisturbed", cache=cache)
    epochs.clear()
    maker, stage = start(tmp_path, "maker", cache, **long), stage_of(tmp_path, **long)
    wait_for((stage / "checkpoint.pt").exists, maker)
    os.kill(maker.pid, signal.SIGSTOP)  # it lives, and holds the lock
    threading.Timer(2 * locks.POLL_S, maker.kill).start()
    results = run(tmp_path, "heir", cache, **long)
    maker.join(10)
    assert maker.exitcode == -signal.SIGKILL
    assert makers(tmp_path, **long) == ["maker", "heir"]
    assert 0 < epochs.count(stage.name) < 12
    assert results == undisturbed
    assert_same_encoder(tmp_path / "trials" / "heir", tmp_path / "undisturbed")
    assert told(tmp_path / "trials" / "heir") == told(tmp_path / "undisturbed")
    assert run(tmp_path, "maker", cache, **long) == undisturbed
    assert tags(tmp_path / "trials" / "maker") == [{"pretrained_by": "heir"}]


def test_a_half_written_end_is_no_end(tmp_path: Path, cache: Path, epochs: list[str]) -> None:
    stage = stage_of(tmp_path)
    stage.mkdir(parents=True)
    (stage / ".encoder.pt.partial").write_bytes(b"half")
    (stage / "artifacts.partial").mkdir()
    (stage / "journal.jsonl").write_text('{"time": 1.0, "event": "stage", "trial": "dead", "results": {"loss": 0.5}')
    assert run(tmp_path, "next", cache)["pretrain/loss"] != 0.5
    assert len(epochs) == EPOCHS


def test_a_trial_that_waits_tells_the_makers_epochs_and_can_be_stopped(tmp_path: Path, cache: Path) -> None:
    stage = stage_of(tmp_path)
    stage.mkdir(parents=True)
    seen: list[int] = []

    def report(metrics: dict[str, float], step: int) -> None:
        seen.append(step)
        if step == 2:
            raise Stop("asked to")

    def make() -> None:
        for step in (1, 2, 3):
            time.sleep(locks.POLL_S)
            making.report({"pretrain/loss": 1.0}, step)

    with FileLock(stage / "lock"):
        making = journal.Journal(stage)
        maker = threading.Thread(target=make)
        maker.start()
        outcome = attempt.attempt(
            TrialRecord("waits", config=config()), 1, report, tmp_path / "waits", cache, stages=tmp_path / "stages"
        )
        maker.join()
    assert (outcome.state, seen) == ("STOPPED", [1, 2])
    assert "another trial runs it" in (tmp_path / "waits" / "log.txt").read_text()


def test_a_stopped_maker_loses_its_turn_and_writes_nothing_that_another_one_reads(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    monkeypatch.setattr(locks, "LEASE_S", 1.0)
    long = {"pretrain": {**SPEC["pretrain"], "epochs": 12}}
    undisturbed = trial.run(config(**long), ignore, tmp_path / "undisturbed", cache=cache)
    maker, stage = start(tmp_path, "maker", cache, **long), stage_of(tmp_path, **long)
    wait_for((stage / "checkpoint.pt").exists, maker)
    os.kill(maker.pid, signal.SIGSTOP)
    begun = {path: path.stat().st_mtime_ns for path in stage.rglob("*") if path.is_file()}
    seen: list[waits.Wait | None] = []
    noted = waits.note
    monkeypatch.setattr(waits, "note", lambda wait, folder: (noted(wait, folder), seen.append(waits.read(folder))))
    outcome = attempt.attempt(
        TrialRecord("heir", config=config(**long)), 1, ignore, tmp_path / "trials" / "heir", cache,
        stages=tmp_path / "stages",
    )  # fmt: skip
    assert outcome.results == undisturbed
    last = seen[-1]
    assert (last.trial, last.state, last.holder.pid) == ("maker", "stopped", maker.pid)
    assert re.fullmatch(
        rf"waits since \S+ for the same pretraining of trial maker: process {maker.pid} on \S+, which is stopped: "
        rf"`kill -CONT {maker.pid}` there lets it go on, `kill -KILL {maker.pid}` ends it",
        str(last),
    )
    assert waits.read(tmp_path / "trials" / "heir") is None
    second = stages.next_turn(stage)
    heirs = {path: path.stat().st_mtime_ns for path in second.rglob("*") if path.is_file()}
    assert begun == {path: path.stat().st_mtime_ns for path in begun}
    os.kill(maker.pid, signal.SIGCONT)
    maker.join(60)
    assert maker.exitcode == 0
    assert heirs == {path: path.stat().st_mtime_ns for path in second.rglob("*") if path.is_file()}
    assert not trial.encoder_path(stage).exists()
    assert [event.trial for event in events(second, "attempt")] == ["maker", "heir"]
    assert run(tmp_path, "maker", cache, **long) == run(tmp_path, "third", cache, **long) == undisturbed
    for name in ("maker", "heir", "third"):
        assert told(tmp_path / "trials" / name) == told(tmp_path / "undisturbed")
        assert_same_encoder(tmp_path / "trials" / name, tmp_path / "undisturbed")


def test_of_many_that_wait_for_a_silent_maker_one_goes_on(
    tmp_path: Path, cache: Path, epochs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    monkeypatch.setattr(locks, "LEASE_S", 3.0)
    monkeypatch.setattr(locks, "BEAT_S", 0.1)
    stage = stage_of(tmp_path)
    stage.mkdir(parents=True)
    with FileLock(stage / "lock"):  # a lock that outlives its host is held like this
        journal.Journal(stage).append(PretrainingStarted(trial="maker", host="node7", pid=4711))
        names = ("a", "b", "c")
        results: dict[str, dict[str, float]] = {}
        waiting = [
            threading.Thread(target=lambda name=name: results.update({name: run(tmp_path, name, cache)}))
            for name in names
        ]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join(120)
    assert results["a"] == results["b"] == results["c"]
    assert len(epochs) == EPOCHS
    assert sorted(path.name for path in stage.parent.iterdir()) == [stage.name, f"{stage.name}.2"]


def test_data_is_decoded_before_the_turn_is_taken(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(trial, "_open_splits", decode)
    with pytest.raises(InterruptedError):
        run(tmp_path, "first", cache)
    assert not (stage_of(tmp_path) / "lock").exists()  # for hours there would be no sign of the maker


def test_a_divergence_is_everyones_until_somebody_has_it_tried_again(
    tmp_path: Path, cache: Path, epochs: list[str]
) -> None:
    diverges = {"pretrain": {**SPEC["pretrain"], "lr": 1e30, "optimizer": "sgd"}}
    with pytest.raises(Diverged, match="lower lr"):
        run(tmp_path, "first", cache, **diverges)
    assert len(epochs) == 1
    with pytest.raises(Diverged, match=r"lower lr.*trial first, same pretraining"):
        run(tmp_path, "second", cache, **diverges, evaluate=OTHER)
    assert len(epochs) == 1
    with pytest.raises(Diverged):
        run(tmp_path, "second", cache, **diverges, evaluate=OTHER)
    assert makers(tmp_path, **diverges) == ["first", "second"]
    with pytest.raises(Diverged, match="trial second"):
        run(tmp_path, "third", cache, **diverges)


def test_any_other_failure_is_the_makers_alone(tmp_path: Path, cache: Path, epochs: list[str]) -> None:
    def breaks(metrics: dict[str, float], step: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run(tmp_path, "first", cache, breaks)
    run(tmp_path, "second", cache)
    assert makers(tmp_path) == ["first", "second"]
    assert len(epochs) == EPOCHS  # what the first has trained is kept


def test_another_stage_version_is_another_pretraining(
    tmp_path: Path, cache: Path, epochs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "first", cache)
    old = stage_of(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*") if path.is_file()}
    monkeypatch.setattr(stage_keys, "STAGE_VERSION", stage_keys.STAGE_VERSION + 1)
    run(tmp_path, "first", cache)
    run(tmp_path, "second", cache)
    assert stage_of(tmp_path) != old
    assert len(epochs) == 2 * EPOCHS
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*") if path.is_file()} == before


def test_a_tag_reaches_every_trial_once(tmp_path: Path, cache: Path) -> None:
    alarm = {"health": {"collapse_below": 1.0}}
    for name in ("first", "second", "second"):
        run(tmp_path, name, cache, **alarm)
    assert tags(tmp_path / "trials" / "second") == [{"collapsed": "true"}, {"pretrained_by": "first"}]


@pytest.mark.parametrize("links", [True, False])
def test_a_link_is_whole_and_may_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refused(*_: Any) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    for content in ("one", "one", "two"):
        if not source.exists() or source.read_text() != content:
            source.unlink(missing_ok=True)
            source.write_text(content)
        stages.link(source, target)
        assert target.read_text() == content
        assert target.samefile(source) == links
        assert [path.name for path in target.parent.iterdir()] == ["target"]


def cut_off(path: Path) -> None:
    """Half of a file, as a copy leaves it that was interrupted; other names of it keep the whole."""
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(half)


@pytest.mark.parametrize("spoil", [Path.unlink, cut_off])
def test_a_trials_encoder_that_is_gone_or_cut_off_comes_from_those_that_share_it(
    alone: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path, spoil: Callable[[Path], None]
) -> None:
    run(tmp_path, "first", cache)
    folder = tmp_path / "trials" / "first"
    spoil(trial.encoder_path(folder))
    assert run(tmp_path, "first", cache, evaluate=OTHER).items() <= alone[1].items()
    assert_same_encoder(folder, alone[0])
    assert makers(tmp_path) == ["first"]
    assert tags(folder)[0]["repeated"].startswith("first/encoder.pt was ")


@pytest.mark.parametrize("spoil", [Path.unlink, cut_off])
def test_a_shared_encoder_that_is_gone_or_cut_off_is_made_again(
    alone: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path, spoil: Callable[[Path], None]
) -> None:
    run(tmp_path, "first", cache)
    spoil(trial.encoder_path(stage_of(tmp_path)))
    assert run(tmp_path, "second", cache, evaluate=OTHER).items() <= alone[1].items()
    assert_same_encoder(tmp_path / "trials" / "second", alone[0])
    followed, made = told(tmp_path / "trials" / "second")[:EPOCHS], told(tmp_path / "trials" / "second")[EPOCHS:]
    assert followed == made == told(alone[0])  # what it followed, and what it made again
    assert makers(tmp_path) == ["first", "second"]


def test_a_pretraining_that_is_made_again_replaces_what_was_reported(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the second one has other digits."""
    run(tmp_path, "first", cache)
    trial.encoder_path(stage_of(tmp_path)).unlink()
    with monkeypatch.context() as gpu:
        gpu.setattr(trial, "derive_seed", lambda seed, stage: loop.derive_seed(seed + 1, stage))
        results = run(tmp_path, "second", cache)
    third = run(tmp_path, "third", cache)
    assert (third["pretrain/loss"], third["pretrain/loss"] == run(tmp_path, "first", cache)["pretrain/loss"]) == (
        results["pretrain/loss"],
        False,
    )
    for name in ("second", "third"):
        reports = events(tmp_path / "trials" / name, "report")
        losses = {event.step: event.metrics["pretrain/loss"] for event in reports if "pretrain/loss" in event.metrics}
        assert losses[EPOCHS] == results["pretrain/loss"]
    told = [event.step for event in reports if "pretrain/loss" in event.metrics]
    assert told == sorted(set(told))  # the third trial knows nothing of the first encoder


def test_a_picture_that_is_gone_is_not_shown(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = run(tmp_path, "first", cache)
    gone = stage_of(tmp_path) / "artifacts" / "map.png"
    gone.unlink()
    assert run(tmp_path, "second", cache) == first
    shown = [event.path for event in events(tmp_path / "trials" / "second", "artifact")]
    assert "artifacts/map.png" not in shown
    assert "artifacts/neighbours.png" in shown
    assert f"{gone} is gone and cannot be shown" in caplog.text


def test_a_stages_folder_that_is_deleted_is_followed_from_its_new_beginning(tmp_path: Path) -> None:
    shared, reported = tmp_path / "stages" / "key", list[tuple[dict[str, float], int]]()
    maker = journal.Journal(shared)
    maker.append(PretrainingStarted(trial="one", host="node", pid=1))
    maker.report({"pretrain/loss": 1.0}, 1)
    follower = stages.SharedPretraining(
        shared, journal.Journal(tmp_path / "two"), lambda *report: reported.append(report)
    )
    assert follower._follow() is None
    shutil.rmtree(tmp_path / "stages")
    assert follower._follow() is None
    again = journal.Journal(shared)
    again.append(TagsSet(tags={"note": "x" * 500}))  # the old offset is within this line
    again.append(PretrainingStarted(trial="one", host="node", pid=2))
    again.report({"pretrain/loss": 1.0}, 1)
    again.report({"pretrain/loss": 0.5}, 2)
    again.append(PretrainingFinished(trial="one", results={"loss": 0.5}))
    finished = follower._follow()
    assert finished is not None
    assert finished.results == {"loss": 0.5}
    assert reported == [({"pretrain/loss": 1.0}, 1), ({"pretrain/loss": 0.5}, 2)]
