"""Nodes that share nothing but a bucket: one dies, the S3 server is away, and another machine's driver takes over."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from servers import S3, Mlflow, eventually

STEPS = 60
NODES = ["node0", "node1", "node2"]
Started = subprocess.Popen[bytes]


@pytest.fixture
def cluster(lab: Path, tmp_path: Path) -> Iterator[Cluster]:
    own = [{"num_cpus": 1, "env_vars": {"SSL_SWEEP_CACHE": str(tmp_path / name)}} for name in NODES]
    made = Cluster(initialize_head=True, head_node_args={**own[0], "include_dashboard": False})
    try:
        for settings in own[1:]:
            made.add_node(**settings)
        yield made
    finally:
        made.shutdown()


def steps_on(disk: Path) -> int:
    """Of the trial that runs there, so far."""
    ran = [path.read_text().split() for path in disk.glob("storage/*/attempts/rank0/faults/trials/*/executed")]
    return max(map(len, ran), default=0)


@pytest.mark.slow
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="three raylets and MLflow's server: make test-faults")
def test_whatever_dies_the_bucket_has_it(
    tmp_path: Path,
    lab: Path,
    s3_server: tuple[S3, Path],
    cluster: Cluster,
    empty_store: Path,
    start_driver: Callable[..., Started],
    check_end: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slow: a sweep of eight trials, with three faults in it."""
    place, s3 = f"s3://{lab.name}/runs", s3_server[0]
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("SSL_SWEEP_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with Mlflow(tmp_path / "mlflow.db", env=s3.env) as mlflow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
        first = start_driver(place, STEPS, SSL_SWEEP_CACHE=str(tmp_path / "desk"))
        try:
            doomed = kill_a_node_at_work(cluster, tmp_path)
            at_work = [tmp_path / name for name in NODES if name != doomed]
            assert eventually(lambda: max(map(steps_on, at_work)) > 5, 120)
            s3.kill()
            time.sleep(5)
            s3.start()
            before = len(list(lab.rglob("journal.jsonl")))
            assert eventually(lambda: len(list(lab.rglob("journal.jsonl"))) > before, 120)  # others have begun
            assert first.poll() is None, first.communicate()
        finally:
            first.kill()
            said, _ = first.communicate(timeout=60)
        assert "the storage" in said.decode()  # its driver said what it waited for
        last = start_driver(place, STEPS, SSL_SWEEP_CACHE=str(tmp_path / "other-desk"))
        try:
            said, _ = last.communicate(timeout=300)
        finally:
            last.kill()
        assert last.returncode == 0, said.decode()
        check_end(lab / "runs", STEPS, repeated=8 * STEPS)
    assert not list((tmp_path / "other-desk").rglob("weights.pt"))  # a driver needs no weights


def kill_a_node_at_work(cluster: Cluster, disks: Path) -> str:
    """The name of the node that is gone."""
    assert eventually(lambda: any(steps_on(disks / name) > 25 for name in NODES[1:]), 120)
    doomed = next(name for name in NODES[1:] if steps_on(disks / name) > 25)
    node = next(each for each in cluster.worker_nodes if str(disks / doomed) in str(each._ray_params.env_vars))
    for process in node.all_processes["raylet"]:
        os.kill(process.process.pid, signal.SIGKILL)
    return doomed
