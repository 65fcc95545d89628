"""The only node on which a trial fits dies: the driver says what is missing, and does not wait for ever."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from quick_sweeps import METRIC, PLAYED, Silent
from ray import cloudpickle
from ray.cluster_utils import Cluster

from ssl_sweep.cluster import supervise
from ssl_sweep.cluster.errors import InfeasibleError
from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.record import TrialRecord

SPEC: dict[str, Any] = {"name": "sweep", **PLAYED, "search": {"seeds": 2}, "resources": {"cpus": 2}}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The driver's node, on which no trial fits, and one on which one does."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=2)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


class Killer(Silent):
    """Kills the node at the first report of all."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._doomed = cluster, list(cluster.worker_nodes)

    def reported(self, *_: Any) -> None:
        while self._doomed:
            self._cluster.remove_node(self._doomed.pop(), allow_graceful=False)


def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    report({METRIC: 50.0}, 1)
    report({METRIC: 50.0}, 2)
    return Outcome("COMPLETE", {METRIC: 50.0})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="Ray takes long to miss a node: make test-faults")
def test_what_a_lost_node_had_is_named_and_the_sweep_goes_on_when_it_is_back(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Slow: two raylets start, and Ray takes long to miss one."""
    monkeypatch.setattr(supervise, "NODES_S", 3.0)
    storage = FolderStorage(tmp_path)
    storage.sweep("sweep").mkdir()
    ledger = open_ledger(storage.ledger_url, from_dump(SPEC))
    missing = r"a trial wants 2 CPU \(resources\.cpus\), there are 1"
    killer = Killer(cluster)
    with pytest.raises(InfeasibleError, match=rf"sweep waits since .*: {missing}; .* ssl-sweep resume sweep --storage"):
        run_sweep(ledger, storage, killer, work=work)
    assert "a node is gone, and a trial wants 2 CPU (resources.cpus), there are 1" in caplog.text
    cluster.add_node(num_cpus=2)
    again = open_ledger(storage.ledger_url, from_dump(SPEC))
    run_sweep(again, storage, killer, work=work)
    assert {trial.state for trial in again.trials} == {"COMPLETE"}
