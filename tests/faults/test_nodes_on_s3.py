"""Nodes that share nothing but a bucket: one dies, the S3 server is away, and another machine's driver takes over."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster
from servers import S3, Mlflow, eventually
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.trialdir.journal import read

STEPS = 60
NODES = ["node0", "node1", "node2"]
SPEC = """
name: real
data: {source: digits, image_size: 8, classes: ["4", "9"]}
encoder: {name: resnet18, width: 8}
method: autoencoder
pretrain: {epochs: 1, batch_size: 128}
evaluate: {knn: {}}
precision: fp32
search: {space: {evaluate.knn.k: [1, 5]}}
resources: {workers: 2}
"""
Started = subprocess.Popen[bytes]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="three raylets, MLflow's server: make test-faults"),
]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the nodes' own disks."""
    return tmp_path_factory.mktemp("disks")


@pytest.fixture(scope="module")
def cluster(s3_server: tuple[S3, Path], disks: Path) -> Iterator[Cluster]:
    cloud = s3_server[0].env
    own = [{"num_cpus": 1, "env_vars": {**cloud, "SSL_SWEEP_CACHE": str(disks / name)}} for name in NODES]
    # with its dashboard: Ray Train asks it whether a gang's controller lives
    made = Cluster(initialize_head=True, head_node_args={**own[0], "include_dashboard": True})
    try:
        for settings in own[1:]:
            made.add_node(**settings)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def place(
    lab: Path,
    s3_server: tuple[S3, Path],
    cluster: Cluster,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A storage in the bucket, its ledger and MLflow's server beside it."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("SSL_SWEEP_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with Mlflow(tmp_path / "mlflow.db", env=s3_server[0].env) as mlflow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
        yield f"s3://{lab.name}/runs"


def test_a_real_sweep_of_gangs_lies_in_the_bucket(
    place: str, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: Ray Train starts each gang anew."""
    spec = tmp_path / "real.yaml"
    spec.write_text(SPEC)
    command = [sys.executable, "-m", "ssl_sweep", "run", str(spec), "--storage", place]
    own = {**os.environ, "SSL_SWEEP_CACHE": str(tmp_path / "desk")}
    ran = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert place in ran.stdout  # the next commands name it
    trials = sorted(folder for folder in (lab / "runs/real/trials").iterdir())
    makers = [event.tags for each in trials for event in read(each)[0] if "pretrained_by" in getattr(event, "tags", {})]
    assert len(makers) == 1  # of two trials the second took the first's
    assert all((each / "encoder.pt").exists() for each in trials)

    def shown(*arguments: str) -> str:
        told = CliRunner().invoke(app, [*arguments, "--storage", place])
        assert told.exit_code == 0, told.output
        return told.output

    monkeypatch.setenv("SSL_SWEEP_CACHE", str(tmp_path / "other-desk"))
    found = json.loads(shown("status", "real", "--json"))
    assert [(trial["stage"], trial["last_sign_seconds"] > 0) for trial in found["trials"]] == [("knn", True)] * 2
    assert "knn: done" in shown("logs", "real", "--trial", trials[0].name)
    assert "knn top1 (test)" in shown("table", "real")
    shown("export", "real", str(tmp_path / "best.safetensors"))
    assert (tmp_path / "best.safetensors").stat().st_size > 1000
    events = sum(len(read(folder)[0]) for folder in (lab / "runs/real", *trials))
    assert f"{events} events" in shown("sync", "real")
    shown("clean", "real", "--keep-encoders", "1", "--yes")
    assert sum((each / "encoder.pt").exists() for each in trials) == 1
    assert all((each / "journal.jsonl").exists() for each in trials)


def steps_on(disk: Path) -> int:
    """Of the trial that runs there, so far."""
    ran = [path.read_text().split() for path in disk.glob("storage/*/attempts/rank0/faults/trials/*/executed")]
    return max(map(len, ran), default=0)


def test_whatever_dies_the_bucket_has_it(
    place: str,
    lab: Path,
    s3_server: tuple[S3, Path],
    cluster: Cluster,
    disks: Path,
    tmp_path: Path,
    start_driver: Callable[..., Started],
    check_end: Callable[..., None],
) -> None:
    """Slow: a sweep of eight trials, with three faults in it."""
    s3 = s3_server[0]
    first = start_driver(place, STEPS, SSL_SWEEP_CACHE=str(tmp_path / "desk"))
    try:
        doomed = kill_a_node_at_work(cluster, disks)
        at_work = [disks / name for name in NODES if name != doomed]
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
    assert f"the storage {place} cannot be reached" in said.decode()
    last = start_driver(place, STEPS, SSL_SWEEP_CACHE=str(tmp_path / "other-desk"))
    try:
        said, _ = last.communicate(timeout=300)
    finally:
        last.kill()
    assert last.returncode == 0, said.decode()
    # each fault costs a running trial the step since its checkpoint, with which the list of steps goes to the bucket
    check_end(lab / "runs", STEPS, repeated=6)
    struck = [path.name for path in (disks / doomed).glob("storage/*/attempts/rank0/faults/trials/*")]
    assert struck  # what was at work there is there still, and was ended elsewhere
    for trial in struck:
        assert [event.name for event in read(lab / "runs/faults/trials" / trial)[0]].count("attempt") > 1
    assert not list(tmp_path.rglob("weights.pt"))  # a driver needs none


def kill_a_node_at_work(cluster: Cluster, disks: Path) -> str:
    """The name of the node that is gone."""
    assert eventually(lambda: any(steps_on(disks / name) > 25 for name in NODES[1:]), 120)
    doomed = next(name for name in NODES[1:] if steps_on(disks / name) > 25)
    node = next(each for each in cluster.worker_nodes if str(disks / doomed) in str(each._ray_params.env_vars))
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in (*raylet.children(recursive=True), raylet):  # its workers would outlive it by seconds
        process.kill()
    return doomed
