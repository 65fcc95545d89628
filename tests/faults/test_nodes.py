"""Three nodes, each a raylet on this machine: trials on all of them, packs once a node, and a node that dies."""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from quick_sweeps import METRIC, Silent
from ray import cloudpickle
from ray.cluster_utils import Cluster
from servers import eventually

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage, cache_folder
from ssl_sweep.trial.attempt import Outcome, attempt
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.record import TrialRecord

NODES = ["node0", "node1", "node2"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The nodes' own disks: that is how the test tells them apart, and how their packs are."""
    folder = tmp_path_factory.mktemp("disks")
    return {name: folder / name for name in NODES}


@pytest.fixture(scope="module")
def cluster(caches: dict[str, Path]) -> Iterator[Cluster]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    own = [{"num_cpus": 1, "env_vars": {"SSL_SWEEP_CACHE": str(caches[name])}} for name in NODES]
    made = Cluster(initialize_head=True, head_node_args={**own[0], "include_dashboard": False})
    try:
        for settings in own[1:]:
            made.add_node(**settings)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def make(tmp_path: Path, **changes: Any) -> tuple[Ledger, Storage]:
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    spec = from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, **changes})
    storage = FolderStorage(tmp_path)
    storage.sweep("sweep").mkdir()
    return open_ledger(storage.ledger_url, spec), storage


def meet(folder: Path, number: int, cache: Path) -> None:
    """Leave a mark and wait for trials on the other nodes: the first to be up would run all, as they are so short."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"attempt-{number}").write_text(str(cache))
    there = set[str]()
    deadline = time.monotonic() + 60
    while len(there) < len(NODES) and time.monotonic() < deadline:
        time.sleep(0.1)
        there = {path.read_text() for path in folder.parent.glob("*/attempt-*")} - {""}


@pytest.mark.slow
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="a real trial's process a node: make test-faults")
def test_trials_land_on_all_nodes_and_each_node_packs_once(
    tmp_path: Path, cluster: Cluster, caches: dict[str, Path]
) -> None:
    """Slow: three raylets and a real trial's process on each."""

    def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
        meet(folder, number, cache)
        return attempt(record, number, report, folder, cache)

    ledger, storage = make(tmp_path, encoder="pixels", method="supervised", pretrain={"epochs": 1}, search={"seeds": 6})
    run_sweep(ledger, storage, Silent(), work=work)
    assert Counter(trial.state for trial in ledger.trials) == {"COMPLETE": 6}
    packs = {name: list(folder.glob("*/meta.json")) for name, folder in caches.items()}
    assert {name: len(found) for name, found in packs.items()} == dict.fromkeys(NODES, 1)


@pytest.mark.slow
def test_the_trials_of_a_node_that_dies_are_tried_elsewhere(
    tmp_path: Path, cluster: Cluster, caches: dict[str, Path]
) -> None:
    """Slow: Ray takes seconds to miss a node."""
    disk = str(caches[NODES[-1]])
    doomed = next(node for node in cluster.worker_nodes if disk in str(node._ray_params.env_vars))

    def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
        meet(folder, number, cache)
        if number == 1 and str(cache) == disk:
            threading.Event().wait()
        for step in range(1, 4):
            time.sleep(0.2)
            report({METRIC: float(record.seed * step)}, step)
        return Outcome("COMPLETE", {METRIC: float(record.seed * 3)})

    def at_work() -> list[Path]:
        return [path for path in tmp_path.rglob("attempt-1") if path.read_text() == disk]

    def kill() -> None:
        if eventually(at_work):
            for process in doomed.all_processes["raylet"]:
                os.kill(process.process.pid, signal.SIGKILL)

    ledger, storage = make(tmp_path, search={"seeds": 6})
    killer = threading.Thread(target=kill)
    killer.start()
    run_sweep(ledger, storage, Silent(), work=work)
    killer.join()
    struck = [path.parent.name for path in at_work()]
    assert struck
    assert Counter(trial.state for trial in ledger.trials) == {"COMPLETE": 6}
    for trial in ledger.trials:
        again = trial.trial_id in struck
        assert (trial.attempts, trial.lost, trial.failures) == ((2, 1, 0) if again else (1, 0, 0))
        assert trial.results == {METRIC: trial.seed * 3.0}
        ends = [each.reason for each in read(storage.trial("sweep", trial.trial_id))[0] if each.name == "end"]
        assert ends == (["lost"] if again else [])
        if again:
            assert (storage.trial("sweep", trial.trial_id) / "attempt-2").read_text() != disk
    assert cache_folder() not in caches.values()  # the driver's own was not used
