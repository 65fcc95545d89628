"""Trials with several workers on a real Ray, on the digits: slow, as each gang is started anew by Ray Train."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.util import placement_group_table

from ssl_sweep.cluster.errors import ClusterError
from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump, resolve
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trial import run as trial
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.requests import request_stop

FREED_WITHIN_S = 10
ACTORS = tuple(
    f"ray::{name}"
    for name in ("RayTrainWorker", "TrainController", "SynchronizationActor", "PlacementGroupCleaner", "_Mailbox")
)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    # with its dashboard, as for users: Ray Train asks it whether a gang's controller lives
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Watcher:
    """Does something at the first report of an epoch."""

    def __init__(self, at_first_report: Callable[[Any], None]) -> None:
        self.at_first_report, self.reports = at_first_report, 0

    def started(self, trial: Any) -> None: ...
    def ended(self, trial: Any) -> None: ...
    def reported(self, trial: Any, report: MetricsReported) -> None:
        self.reports += 1
        if self.reports == 1:
            self.at_first_report(trial)


def make(tmp_path: Path, epochs: int, **resources: Any) -> tuple[Ledger, Storage]:
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": {"name": "resnet18", "width": 4}}
    base |= {"method": "simsiam", "precision": "fp32", "health": {"every": 0}, "evaluate": {"knn": {}}}
    pretrain = {"epochs": epochs, "batch_size": 256, "lr": 0.01, "schedule": "constant"}
    search = {"space": {}, "seeds": 1, "sampler": "grid"}
    spec = from_dump({"name": "gang", **base, "pretrain": pretrain, "search": search, "resources": resources})
    storage = FolderStorage(tmp_path)
    storage.sweep("gang").mkdir(exist_ok=True)
    return open_ledger(storage.ledger_url, spec), storage


def gang() -> dict[int, str]:
    """The processes of distributed trials that live, by what they are."""
    found = {}
    for process in psutil.Process().children(recursive=True):  # of the test's own Ray
        with suppress(psutil.Error):
            title = "".join(process.cmdline()[:1])
            if title.startswith(ACTORS):
                found[process.pid] = title.removeprefix("ray::").partition(".")[0]
    return found


def reservations() -> list[Any]:
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def weights(folder: Path) -> torch.Tensor:
    state = torch.load(trial.encoder_path(folder))["encoder"]
    return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])


def trained_alone(spec: SweepSpec, folder: Path, epochs: int) -> tuple[dict[str, float], torch.Tensor]:
    """What one worker, which nothing disturbs, makes of the trial: its results and weights."""
    config = resolve(spec, {}, spec.search.seeds[0])
    config["pretrain"]["epochs"] = epochs
    results = trial.run(config, lambda metrics, step: None, folder, cache=folder.parent / "cache")
    return results, weights(folder)


def events(storage: Storage, ledger: Ledger, kind: str) -> list[Any]:
    return [each for each in read(storage.trial("gang", ledger.trials[0].trial_id))[0] if each.name == kind]


@pytest.mark.slow
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="takes a minute: `make test-faults` runs it")
def test_a_worker_that_is_killed_costs_an_attempt_and_changes_nothing(tmp_path: Path) -> None:
    """Slow: two starts of a gang."""
    ledger, storage = make(tmp_path, epochs=3, workers=2)
    killed: list[int] = []

    def kill_the_second(running: Any) -> None:
        first = events(storage, ledger, "attempt")[0].pid
        workers = {pid for pid, name in gang().items() if name == "RayTrainWorker"}
        assert first in workers
        assert len(workers) == 2
        killed.append((workers - {first}).pop())
        os.kill(killed[0], signal.SIGKILL)

    run_sweep(ledger, storage, Watcher(kill_the_second))
    assert killed
    ended = ledger.trials[0]
    assert (ended.state, ended.attempts, ended.lost, ended.failures) == ("COMPLETE", 2, 1, 0)
    assert [(each.state, each.reason) for each in events(storage, ledger, "end")] == [
        ("FAILED", "lost"),
        ("COMPLETE", None),
    ]
    epochs = [each.step for each in events(storage, ledger, "report") if "pretrain/loss" in each.metrics]
    assert epochs == [1, 2, 3]

    results, expected = trained_alone(ledger.spec, tmp_path / "three", 3)
    _, too_few = trained_alone(ledger.spec, tmp_path / "two", 2)
    assert (ended.results or {})["pretrain/loss"] == pytest.approx(results["pretrain/loss"], abs=1e-4)
    off = (weights(storage.trial("gang", ended.trial_id)) - expected).norm()
    assert off < 0.02 * (too_few - expected).norm()  # rounding: fp32


@pytest.mark.slow
def test_a_stopped_trial_leaves_no_process_and_no_reservation(tmp_path: Path) -> None:
    """Slow: a start of a gang."""
    ledger, storage = make(tmp_path, epochs=200, workers=2)
    seen: list[str] = []

    def stop(running: Any) -> None:
        seen.extend(gang().values())
        assert len(reservations()) == 2  # the driver's and the gang's
        request_stop(storage.trial("gang", running.trial_id), "stop", "enough")

    run_sweep(ledger, storage, Watcher(stop))
    assert seen.count("RayTrainWorker") == 2
    ended = events(storage, ledger, "end")[-1]
    assert (ledger.trials[0].state, ended.state) == ("STOPPED", "STOPPED")
    while gang() or reservations():
        assert time.time() - ended.time < FREED_WITHIN_S, (gang(), reservations())
        time.sleep(0.2)
    assert len(events(storage, ledger, "report")) == 1  # it ended at once


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"workers": 4}, r"wants 4 CPU \(resources.cpus x resources.workers\), there are 2"),
        ({"workers": 2, "gpus": 1}, r"wants 2 GPU \(resources.gpus x resources.workers\), there are 0"),
    ],
)
def test_a_gang_that_can_never_fit_is_refused(tmp_path: Path, resources: dict[str, int], said: str) -> None:
    ledger, storage = make(tmp_path, epochs=1, **resources)
    with pytest.raises(ClusterError, match=said):
        run_sweep(ledger, storage, Watcher(pytest.fail))
