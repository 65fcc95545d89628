"""What the driver does about pruning: whom it asks to end, which seeds it runs, and what it leaves in the journals."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl_sweep.cluster.scheduler import Idle, Launch, LedgerScheduler
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.events import AttemptStarted, MetricsReported
from ssl_sweep.trialdir.journal import Journal, read
from ssl_sweep.trialdir.requests import StopRequest, read_stop_request, request_stop

METRIC, WATCHED = "knn/top1_val", "pretrain/knn_top1_val"
WHY = "pruned at epoch 1, with pretrain/knn_top1_val 40"


class Log:
    """A observer that remembers who ended, and how."""

    def __init__(self) -> None:
        self.ended_as: list[tuple[int, int, str]] = []

    def started(self, trial: Trial) -> None: ...
    def reported(self, trial: Trial, report: MetricsReported) -> None: ...

    def ended(self, trial: Trial) -> None:
        self.ended_as.append((trial.choice, trial.seed, trial.state))


def search(tmp_path: Path, **changes: Any) -> LedgerScheduler:
    wanted = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2]}, "seeds": 2, "pruner": "asha", **changes}
    base = {"name": "sweep", "data": {"source": "digits", "image_size": 8}, "pretrain": {"epochs": 9}}
    spec = from_dump(base | {"encoder": "resnet18", "method": "autoencoder", "evaluate": {"knn": {}}, "search": wanted})
    storage = FolderStorage(tmp_path)
    return LedgerScheduler(open_ledger(storage.ledger_url, spec), storage, Log())


def begin(search: LedgerScheduler, name: str) -> tuple[Path, int, int]:
    """Start a trial as a worker would: its folder, choice and seed."""
    given = search.next(name)
    assert isinstance(given, Launch)
    Journal(given.folder).append(AttemptStarted(attempt=given.attempt))
    return given.folder, given.record.choice, given.record.seed


def report(search: LedgerScheduler, name: str, value: float, step: int = 1) -> None:
    search.report(name, {WATCHED: value}, step)


def pruned_second(search: LedgerScheduler) -> Path:
    """Run the first choice's first seed to its end; the second is asked to end itself."""
    begin(search, "a")
    folder, choice, _ = begin(search, "b")
    report(search, "a", 50.0)
    search.end("a", Outcome("COMPLETE", {METRIC: 50.0}))
    assert read_stop_request(folder) is None
    report(search, "b", 40.0)
    assert (read_stop_request(folder), choice) == (StopRequest("prune", WHY), 1)
    return folder


def last(folder: Path) -> dict[str, Any]:
    return read(folder)[0][-1]


def test_a_bad_choice_is_asked_to_end_and_its_other_seeds_never_run(tmp_path: Path) -> None:
    first = search(tmp_path)
    pruned_second(first)
    first.end("b", Outcome("PRUNED", message=WHY))
    assert first.observer.ended_as == [(0, 0, "COMPLETE"), (1, 0, "PRUNED"), (1, 1, "PRUNED")]
    unrun = first.ledger.choice(1).trials[1]
    folder = tmp_path / "sweep" / "trials" / unrun.trial_id
    assert (last(folder).state, last(folder).message) == ("PRUNED", f"not run: seed 0 {WHY}")
    assert yaml.safe_load((folder / "config.yaml").read_text())["config"]["views"]["overlay_alpha"] == 0.1
    # the seed of the good choice, which was queued when its first was complete, then the next choice
    assert [begin(first, name)[1:] for name in "cd"] == [(0, 1), (2, 0)]


def test_wilcoxon_runs_a_seed_after_the_other(tmp_path: Path) -> None:
    first = search(tmp_path, pruner={"name": "wilcoxon", "p_threshold": 0.3}, seeds=3)
    assert [begin(first, name)[1:] for name in "abc"] == [(0, 0), (1, 0), (2, 0)]
    assert first.next("d") is Idle.WAIT
    for seed in (0, 1, 2):
        first.end("a", Outcome("COMPLETE", {METRIC: 50.0 + seed}))
        if seed < 2:
            assert begin(first, "a")[1:] == (0, seed + 1)
    for seed in (0, 1):
        first.end("b", Outcome("COMPLETE", {METRIC: 40.0 + 0.9 * seed}))
        if seed < 1:
            assert begin(first, "b")[1:] == (1, 1)
    assert first.observer.ended_as[-2:] == [(1, 1, "COMPLETE"), (1, 2, "PRUNED")]


@pytest.mark.parametrize("how", ["driver killed", "worker killed", "worker failed"])
def test_a_decision_stands_whoever_dies_before_it_is_done(tmp_path: Path, how: str) -> None:
    first = search(tmp_path)
    folder = pruned_second(first)
    if how == "driver killed":
        first = search(tmp_path)
    elif how == "worker killed":
        first.process_died("b", "")
    else:
        first.end("b", Outcome("FAILED", reason="crash", message="broken"))
    assert [trial.state for trial in first.ledger.choice(1).trials] == ["PRUNED", "PRUNED"]
    assert (last(folder).state, last(folder).message) == ("PRUNED", WHY)
    assert [begin(first, name)[1:] for name in "cd"] == [(0, 1), (2, 0)]


def test_who_was_killed_before_showing_an_unrun_trial_shows_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(tmp_path)
    pruned_second(first)
    monkeypatch.setattr(LedgerScheduler, "_record_unrun", lambda *_: None)
    first.end("b", Outcome("PRUNED", message=WHY))
    monkeypatch.undo()
    unrun = first.ledger.choice(1).trials[1]
    folder = tmp_path / "sweep" / "trials" / unrun.trial_id
    assert not folder.exists()
    search(tmp_path)
    search(tmp_path)
    assert [event.name for event in read(folder)[0]] == ["end"]


def test_a_new_attempt_is_not_asked_what_the_last_one_was(tmp_path: Path) -> None:
    first = search(tmp_path)
    folder, _, _ = begin(first, "a")
    request_stop(folder, "stop", "by hand")
    first.end("a", Outcome("FAILED", reason="lost", message="killed"))
    assert begin(first, "a")[0] == folder
    assert read_stop_request(folder) is None
