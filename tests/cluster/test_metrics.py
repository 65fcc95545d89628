"""What a real Ray tells Prometheus of a sweep, with trials that take their time in place of training."""

import re
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from quick_sweeps import Silent
from ray import cloudpickle

from ssl_sweep.cluster import metrics
from ssl_sweep.cluster.metrics import SweepMetrics, export_gpu_memory
from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.record import TrialRecord

SAMPLE = re.compile(r"^ray_ssl_sweep_(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
Samples = dict[tuple[str, ...], float]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """A Ray whose processes hand their metrics on every second; where they can be read."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    ray.shutdown()


def make(tmp_path: Path, name: str, trials: int = 3) -> tuple[Ledger, Storage]:
    search = {
        "space": {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3, 0.4][:trials]},
        "objective": "maximize knn/top1_val",
    }
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    spec = from_dump({"name": name, **base, "evaluate": {"knn": {}}, "search": search})
    storage = FolderStorage(tmp_path)
    storage.sweep(name).mkdir()
    return open_ledger(storage.ledger_url, spec), storage


def slow(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    for epoch in (1, 2, 3, 4):
        time.sleep(0.5)
        report({"pretrain/loss": 1.0, "pretrain/images_per_second": 100.0 + record.choice}, epoch)
    report({"knn/top1_val": 50.0}, 0)
    return Outcome("COMPLETE", {"knn/top1_val": 50.0})


def scraped(address: str) -> Samples:
    """What the endpoint has of sweeps, by name and the values of our own labels."""
    with urllib.request.urlopen(address) as answer:
        text = answer.read().decode()
    found = {}
    for sample in SAMPLE.finditer(text):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
        own = tuple(labels[name] for name in ("sweep", "state", "stage") if name in labels)
        found[(sample["name"], *own)] = float(sample["value"])
    return found


def watched(address: str, ended: threading.Event) -> list[Samples]:
    seen = []
    while not ended.wait(0.5):
        seen.append(scraped(address))
    return seen


def test_prometheus_can_follow_a_sweep(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.3)
    ledger, storage = make(tmp_path, "seen", trials=5)
    ended, seen = threading.Event(), list[Samples]()
    reader = threading.Thread(target=lambda: seen.extend(watched(cluster, ended)))
    reader.start()
    run_sweep(ledger, storage, Silent(), work=slow, backlog=lambda: 7)
    time.sleep(2)  # until the driver's process has handed on what it was given last
    ended.set()
    reader.join()
    most = max(at.get(("trials", "seen", "RUNNING"), 0) for at in seen)
    assert most in (1, 2, 3)  # on two CPUs; Tune has one more, which waits for them
    assert max(at.get(("trials", "seen", "COMPLETE"), 0) for at in seen) >= 1
    assert max(at.get(("trials", "seen", "WAITING"), 0) for at in seen) >= 1
    rates = {at.get(("images_per_second", "seen")) for at in seen}
    alone = {100.0 + choice for choice in range(5)}
    assert rates & (alone | {one + other for one in alone for other in alone - {one}})  # of one trial, or of two
    last = seen[-1]
    assert last["spool_events", "seen"] == 7
    assert 0 < last["seconds_since_report", "seen"] < 30
    assert last["stage_seconds_total", "seen", "pretrain"] > 5  # of 5 trials' 4 epochs of 0.5 s, and what starting took
    assert {key[1] for key in last} == {"seen"}


def test_a_ledger_or_a_backlog_that_cannot_be_read_costs_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.01)

    def away() -> int:
        raise OSError("the disk is gone")

    exporter = SweepMetrics(make(tmp_path, "unseen")[0], away)
    with exporter.exported():
        time.sleep(0.3)
    assert [record.levelname for record in caplog.records if "no metrics" in record.message] == ["WARNING"]


def test_a_slow_backlog_does_not_hold_up_the_end(tmp_path: Path) -> None:
    reading, done = threading.Event(), threading.Event()

    def slow_disk() -> int:
        reading.set()
        done.wait(10)
        return 0

    began = time.monotonic()
    with SweepMetrics(make(tmp_path, "slow")[0], slow_disk).exported():
        reading.wait(5)
    done.set()
    assert time.monotonic() - began < 2


def test_trials_are_counted_by_state(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path, "counted")
    first, second = ledger.ask(), ledger.ask()
    assert first is not None
    assert second is not None
    ledger.update(replace(first.trials[0], state="RUNNING", attempts=1))
    exporter = SweepMetrics(ledger, int)
    counted = exporter._count(ledger.trials)
    assert counted == {
        **dict.fromkeys(metrics.STATES, 0),
        "RUNNING": 1,
        "WAITING": 2,  # one that was asked for, and one that was not yet
    }


def test_rates_of_running_trials_are_summed_and_a_shared_pretraining_counts_once(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path, "rates")
    trials = [choice.trials[0] for choice in (ledger.ask(), ledger.ask(), ledger.ask()) if choice is not None]
    running = [replace(trial, state="RUNNING") for trial in trials]
    exporter = SweepMetrics(ledger, int)
    for trial, rate in zip(running, (100.5, 200.25, 200.25), strict=True):
        exporter.started(trial)
        exporter.reported(
            trial, MetricsReported(metrics={"pretrain/loss": 1.0, "pretrain/images_per_second": rate}, step=1)
        )
    assert exporter._images_per_second(running) == 300.75
    exporter.reported(
        running[0], MetricsReported(metrics={"knn/top1_val": 50.0}, step=1)
    )  # at a stage that trains on nothing
    assert exporter._images_per_second(running) == 200.25
    exporter.ended(running[1])
    assert exporter._images_per_second([*running[:1], trials[2]]) == 0  # the last is to be tried again


def test_a_trial_tells_of_its_gpu(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    export_gpu_memory("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 << 30)
    export_gpu_memory("gpu")
    deadline = time.monotonic() + 10
    while ("gpu_memory_bytes", "gpu") not in scraped(cluster) and time.monotonic() < deadline:
        time.sleep(0.3)
    found = scraped(cluster)
    assert found["gpu_memory_bytes", "gpu"] == 3 << 30
    assert ("gpu_memory_bytes", "cpu") not in found
