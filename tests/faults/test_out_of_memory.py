"""A trial that takes more memory than the machine has left, on a real Ray whose memory monitor looks often."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial import attempt as attempts
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.record import TrialRecord

STEP_BYTES, STEPS = 50_000_000, 80
ROOM_BYTES = 1_500_000_000  # between what is in use and what the monitor allows


class Quiet:
    """A observer that does not look."""

    def started(self, trial: Any) -> None: ...
    def reported(self, trial: Any, report: MetricsReported) -> None: ...
    def ended(self, trial: Any) -> None: ...


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    threshold = allowed()
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
        _system_config={"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 50},
    )
    yield
    ray.shutdown()


def allowed() -> float:
    """The share of this machine's memory that is in use, and some room."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    total, available = 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    if available < 2 * STEP_BYTES * STEPS:
        pytest.skip(f"{available / 1e9:.1f} GB are free; the hog takes up to {STEP_BYTES * STEPS / 1e9:.0f}")
    return (total - available + ROOM_BYTES) / total


@pytest.mark.slow
@pytest.mark.usefixtures("_cluster")
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="it takes gigabytes: make test-faults")
def test_a_trial_that_the_memory_monitor_ends_says_what_to_lower(tmp_path: Path) -> None:
    """Slow: a Ray of its own, and time to fill some memory."""

    def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
        def hog(config: Any, report: Any, folder: Path, **_: Any) -> dict[str, float]:
            taken = []
            for _step in range(STEPS):
                taken.append(bytearray(b"x" * STEP_BYTES))
                time.sleep(0.05)
            return {}

        attempts.trial.run = hog
        return attempts.attempt(record, number, report, folder, cache)

    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    spec = from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}})
    storage = FolderStorage(tmp_path)
    storage.sweep("sweep").mkdir()
    ledger = open_ledger(storage.ledger_url, spec)
    run_sweep(ledger, storage, Quiet(), work=work)
    (trial,) = ledger.trials
    assert (trial.state, trial.reason, trial.attempts) == ("FAILED", "oom", 1), trial.message
    assert (trial.message or "").startswith(
        "out of memory, ended by Ray's memory monitor; lower one of pretrain.batch_size"
    )
    (end,) = (event for event in read(storage.trial("sweep", trial.trial_id))[0] if event.name == "end")
    assert end.reason == "oom"
    assert "memory" in end.traceback
