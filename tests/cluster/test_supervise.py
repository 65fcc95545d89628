"""A Ray that dies under a sweep, and time that a driver was stopped for."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from quick_sweeps import METRIC, PLAYED, Silent
from ray import cloudpickle

from ssl_sweep.cluster import compat
from ssl_sweep.cluster.errors import BrokenClusterError
from ssl_sweep.cluster.patience import AwakeClock
from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.record import TrialRecord

SPEC: dict[str, Any] = {"name": "sweep", **PLAYED}


class Killer(Silent):
    """Kills Ray's raylet at the first report."""

    def reported(self, *_: Any) -> None:
        compat.local_processes()["raylet"].kill()


def endless(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    for step in range(1, 100_000):
        report({METRIC: 50.0}, step)
        time.sleep(0.1)
    return Outcome("COMPLETE", {METRIC: 50.0})


def test_a_sweep_whose_ray_dies_ends_with_the_cause_and_the_command_that_goes_on(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        storage = FolderStorage(tmp_path)
        storage.sweep("sweep").mkdir()
        ledger = open_ledger(storage.ledger_url, from_dump(SPEC))
        with pytest.raises(
            BrokenClusterError, match=r"Ray's raylet \(process \d+ on .*\) was killed by SIGKILL"
        ) as died:
            run_sweep(ledger, storage, Killer(), work=endless)
    finally:
        ray.shutdown()
    assert str(died.value).endswith(f"ssl-sweep resume sweep --storage {tmp_path}")
    assert [(trial.state, trial.lost) for trial in ledger.trials] == [("RUNNING", 0)]  # the next driver resumes it


def test_time_in_which_the_driver_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = AwakeClock()
    now = time.monotonic()
    for seconds in (0.2, 0.4, 3600.0):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: now + seconds)
        clock.tick()
    assert clock.now < 2.0
