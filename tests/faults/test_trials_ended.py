"""Trials that hang or are stopped, and a driver that is told to end while it has nothing to run: on a real Ray."""

import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray import cloudpickle

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger import budgets
from ssl_sweep.ledger.lease import sole_driver
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump, resolve
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.steering import ResumeSelection, prepare_resume, stop_or_pause
from ssl_sweep.trial import attempt as attempts
from ssl_sweep.trial import run as trials
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.record import TrialRecord

METRIC = "knn/top1_val"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Watcher:
    """Tells the test of the first report."""

    def __init__(self, on_report: Callable[[], None] = lambda: None) -> None:
        self.on_report, self.reports = on_report, 0

    def started(self, trial: Any) -> None: ...
    def ended(self, trial: Any) -> None: ...
    def reported(self, trial: Any, report: MetricsReported) -> None:
        self.reports += 1
        if self.reports == 1:
            self.on_report()


def make(tmp_path: Path, **changes: Any) -> tuple[Ledger, Storage]:
    search = {"space": {"views.overlay_alpha": [0.0, 0.1]}, "seeds": 1, "sampler": "grid"}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    spec = from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search, **changes})
    storage = FolderStorage(tmp_path)
    storage.sweep("sweep").mkdir()
    return open_ledger(storage.ledger_url, spec), storage


def test_a_trial_that_hangs_is_ended_and_tried_again_in_a_new_process(tmp_path: Path) -> None:
    def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
        def run(config: Any, report: Any, folder: Path, **_: Any) -> dict[str, float]:
            if record.choice == 1 and number == 1:
                threading.Event().wait()
            report({METRIC: 50.0}, 1)
            return {METRIC: 50.0}

        attempts.trial.run = run
        return attempts.attempt(record, number, report, folder, cache, timeout=3.0)

    ledger, storage = make(tmp_path)
    run_sweep(ledger, storage, Watcher(), work=work)
    assert [(trial.state, trial.attempts, trial.lost) for trial in ledger.trials] == [
        ("COMPLETE", 1, 0),
        ("COMPLETE", 2, 1),
    ]
    events = read(storage.trial("sweep", ledger.trials[1].trial_id))[0]
    first = next(event for event in events if event.name == "end")
    assert first.reason == "hung"
    assert first.message.startswith("no sign of life for 0:00:03; it was in wait (threading.py:")
    assert " < run (" in first.message
    assert "in attempt" in first.traceback


@pytest.mark.parametrize(("what", "state"), [("stop", "STOPPED"), ("pause", "PAUSED")])
def test_asked_from_another_terminal_trials_end_at_their_next_report(tmp_path: Path, what: Any, state: str) -> None:
    def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
        def endless(config: Any, report: Any, folder: Path, **_: Any) -> dict[str, float]:
            for step in range(1, 3000):
                time.sleep(0.05)
                report({METRIC: 50.0}, step)
            return {METRIC: 50.0}

        attempts.trial.run = endless
        return attempts.attempt(record, number, report, folder, cache)

    ledger, storage = make(tmp_path)
    said: list[str] = []
    other = threading.Thread(target=lambda: said.append(stop_or_pause(storage, "sweep", what)))
    with sole_driver(storage.sweep("sweep"), ledger.notes) as lease:
        ending = run_sweep(ledger, storage, Watcher(other.start), work=work, lease=lease)
    other.join()
    assert "asked its driver" in said[0]
    assert (ending.interrupted, ending.stop_request.ask if ending.stop_request else None) == (True, what)
    assert Counter(trial.state for trial in ledger.trials) in ({state: 2}, {state: 1, "CREATED": 1})
    for trial in ledger.trials:
        ends = [each.state for each in read(storage.trial("sweep", trial.trial_id))[0] if each.name == "end"]
        assert ends == ([state] if trial.attempts else [])


def test_a_driver_that_waits_to_try_again_hears_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> Outcome:
        return Outcome("FAILED", reason="crash", message="broken")

    waiting: list[Any] = []

    def wait_s(trial: Any) -> float:
        waiting.append(trial)
        if len(waiting) == 2:  # nothing is left to run: a moment later Tune only waits for the searcher
            threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return 300.0

    monkeypatch.setattr(budgets, "wait_s", wait_s)
    ledger, storage = make(tmp_path)
    began = time.monotonic()
    ending = run_sweep(ledger, storage, Watcher(), work=crash)
    assert time.monotonic() - began < 200
    assert ending.interrupted
    assert [trial.state for trial in ledger.trials] == ["CREATED", "CREATED"]


def images(folder: Path) -> Path:
    """A few small images in two classes, one of which cannot be read."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for number in range(6):
                pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    corrupt = folder / "train" / "b" / "3.png"
    corrupt.write_bytes(corrupt.read_bytes()[:40])
    return corrupt


def test_a_corrupt_image_stops_a_sweep_once_and_is_named(tmp_path: Path) -> None:
    corrupt, cache = images(tmp_path / "images"), tmp_path / "cache"

    def work(record: TrialRecord, number: int, report: Any, folder: Path, _: Path) -> Outcome:
        return attempts.attempt(record, number, report, folder, cache, stages=tmp_path / "sweep" / "stages")

    data = {"source": f"imagefolder:{tmp_path / 'images'}", "image_size": 8, "val_fraction": 0.2}
    search = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3]}, "seeds": 1, "sampler": "grid"}
    encoder, pretrain = {"name": "resnet18", "width": 4}, {"epochs": 1, "batch_size": 4}
    ledger, storage = make(
        tmp_path, data=data, search=search, encoder=encoder, pretrain=pretrain, health={"every": 0}, precision="fp32"
    )
    ending = run_sweep(ledger, storage, Watcher(), work=work)
    assert ending.halted is not None
    assert f"{corrupt}: not a readable image" in ending.halted
    assert "replace or remove it, or set data.on_error: skip" in ending.halted
    tried = [trial for trial in ledger.trials if trial.attempts]
    assert {(trial.state, trial.reason, trial.attempts, trial.message) for trial in tried} == {
        ("FAILED", "data", 1, ending.halted)
    }
    assert 3 <= len(tried) <= 4
    shutil.copy(corrupt.with_name("2.png"), corrupt)
    again = open_ledger(storage.ledger_url, ledger.spec)
    prepare_resume(again, ResumeSelection(), again.notes.read())
    run_sweep(again, storage, Watcher(), work=work)
    assert [trial.state for trial in again.trials] == 4 * ["COMPLETE"]
    for trial in again.trials:
        config = resolve(ledger.spec, ledger.choice(trial.choice).knobs, trial.seed)
        undisturbed = trials.run(config, lambda metrics, step: None, tmp_path / trial.trial_id, cache=cache)
        assert trial.results == undisturbed
