"""What compose.yaml runs, run on loopback by the same commands: a sweep goes through all of it.

In `make test-faults` only: it starts a Ray head and two workers that ask for a token, PostgreSQL, an S3 server, an
MLflow that knows its users, and the service; then the head is killed while a sweep of the service's runs.
"""

import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from servers import S3, Postgres, Server, eventually, free_port

from ssl_sweep.client.client import Client

pytestmark = pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="make test-faults starts this cluster")

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
TOKEN, PASSWORD = "0123456789abcdef" * 4, "of-the-admin-0"
SPEC = {
    "name": "contained",
    "data": {"source": "digits", "image_size": 8, "train_images": 200},
    "encoder": {"name": "resnet18", "width": 8},
    "method": "autoencoder",
    "pretrain": {"epochs": 1, "batch_size": 64},
    "evaluate": {"knn": {}},
    "search": {"space": {"views.overlay_alpha": [0.0, 0.2]}},
    "resources": {"cpus": 1},
}


class Cluster:
    """The processes of compose.yaml, their hosts turned into ports of this machine."""

    def __init__(self, folder: Path, postgres: Postgres, s3: S3) -> None:
        self.gcs, self.dashboard, self.mlflow, self.service = (free_port() for _ in range(4))
        self.folder, self._postgres = folder, postgres
        auth = (ROOT / "docker" / "mlflow" / "auth.ini").read_text()
        (folder / "auth.ini").write_text(self._here(auth))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        base = {"PATH": path, "PGPASSWORD": postgres.password}
        self.env = base | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "SSL_SWEEP_STORAGE": str(folder / "sweeps"),
            "SSL_SWEEP_LEDGER": self._here(SERVICES["head"]["environment"]["SSL_SWEEP_LEDGER"]),
            "SSL_SWEEP_SERVICE_DB": self._here(SERVICES["service"]["environment"]["SSL_SWEEP_SERVICE_DB"]),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.mlflow}",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }
        mlflow_env = (
            base
            | s3.env
            | {
                "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the cookies",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            }
        )
        self.head = Server([*self._command("head"), "--temp-dir", f"{folder}/ray"], self.dashboard, env=self.env)
        self.workers = [self._worker(free_port()) for _ in range(2)]
        mlflow = Server(self._command("mlflow"), self.mlflow, env=mlflow_env)
        service = Server(self._command("service"), self.service, env=self.env)
        self.servers = [mlflow, self.head, *self.workers, service]

    def _worker(self, metrics: int) -> Server:
        command = [*self._command("worker", metrics), "--num-cpus=1", "--num-gpus=0"]
        return Server(command, metrics, env=self.env)

    def _command(self, service: str, metrics: int | None = None) -> list[str]:
        command = SERVICES[service]["command"].replace("=8080", f"={metrics or free_port()}")
        return shlex.split(self._here(command))

    def _here(self, text: str) -> str:
        changes = {
            "ssl_sweep@postgres/": f"ssl@127.0.0.1:{self._postgres.port}/",
            "head:6379": f"127.0.0.1:{self.gcs}",
            "head:8265": f"127.0.0.1:{self.dashboard}",
            # without the last, the default port may be another cluster's of this machine, and no job starts
            "ray start": "ray start --dashboard-agent-listen-port=0",
            "--port=6379": f"--port={self.gcs} --node-ip-address=127.0.0.1",
            "--dashboard-port=8265": f"--dashboard-port={self.dashboard}",
            "0.0.0.0": "127.0.0.1",
            "--port 5000": f"--port {self.mlflow}",
            "--port 8300": f"--port {self.service}",
            "--data-root /data": f"--data-root {self.folder}/data",
            "${TRUSTED_PROXY:-127.0.0.1}": "127.0.0.1",
            "mlflow:5000,localhost:*,127.0.0.1:*,${MLFLOW_HOST:-localhost}": f"127.0.0.1:{self.mlflow}",
        }
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env={**os.environ, **self.env, **env}, capture_output=True, text=True, check=False, timeout=240
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("c")
    (folder / "buckets" / "mlflow").mkdir(parents=True)
    (folder / "data").mkdir()
    postgres, started = Postgres(), list[Server]()
    before = set(psutil.Process().children(recursive=True))
    try:
        postgres.start()
        for name in ("ssl_sweep", "mlflow", "mlflow_auth", "service"):
            postgres.create(name)
        s3 = S3(folder / "buckets")
        made = Cluster(folder, postgres, s3)
        for server in (s3, *made.servers):
            started.append(server)
            server.start()
        yield made
    finally:
        killed(set(psutil.Process().children(recursive=True)) - before)
        for server in started:
            server.kill()
        postgres.remove()


def killed(processes: Collection[psutil.Process]) -> None:
    """All of them gone, by SIGKILL."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it went with its parent
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def asked(url: str, user: str | None = None) -> int:
    """The status of MLflow's answer."""
    request = urllib.request.Request(url)
    if user is not None:
        request.add_header("Authorization", "Basic " + b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_sweep_goes_through_what_the_containers_run(cluster: Cluster) -> None:
    spec = cluster.folder / "spec.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    jobs = ("ray", "job", "submit", "--address", f"http://127.0.0.1:{cluster.dashboard}", "--", "ssl-sweep")
    ran = cluster.run(*jobs, "run", str(spec))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 of 2 trials complete" in ran.stdout
    table = cluster.run("ssl-sweep", "table", "contained", "--format", "csv")
    assert table.returncode == 0, table.stderr
    assert len(table.stdout.splitlines()) == 3
    status: dict[str, Any] = json.loads(cluster.run("ssl-sweep", "status", "contained", "--json").stdout)
    assert status["complete"] == 2
    stored = {path.name for path in (cluster.folder / "buckets" / "mlflow").rglob("*") if path.is_file()}
    assert {"spec.yaml", "table.md", "report.html"} <= stored


def test_nobody_gets_in_without_being_known(cluster: Cluster) -> None:
    search = (
        f"http://127.0.0.1:{cluster.mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=ssl_sweep/contained"
    )
    assert asked(search) == 401
    assert asked(search, "admin:guessed") == 401
    assert asked(search, f"admin:{PASSWORD}") == 200
    jobs = ("ray", "job", "list", "--address", f"http://127.0.0.1:{cluster.dashboard}")
    assert cluster.run(*jobs).returncode == 0
    assert cluster.run(*jobs, RAY_AUTH_TOKEN="f" * 64).returncode != 0
    assert (
        cluster.run("ray", "status", "--address", f"127.0.0.1:{cluster.gcs}", RAY_AUTH_TOKEN="f" * 64).returncode != 0
    )


def test_a_sweep_of_the_services_outlives_the_clusters_head(cluster: Cluster) -> None:
    """Compose starts what has ended, and so does the test: a head that finds workers of its address here refuses."""
    token = cluster.run("ssl-sweep", "token", "create", "ann").stdout.strip()
    client = Client(f"http://127.0.0.1:{cluster.service}", token)
    alphas = {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3]}
    pretrain = {**SPEC["pretrain"], "epochs": 40}
    client.submit(yaml.safe_dump({**SPEC, "name": "shared", "pretrain": pretrain, "search": {"space": alphas}}))
    assert eventually(lambda: client.show("shared")["counts"]["complete"], 150), client.show("shared")
    done = {each["trial_id"] for each in client.trials("shared", state="COMPLETE")}
    assert len(done) < 4
    assert cluster.head.process is not None
    parts = psutil.Process(cluster.head.process.pid)
    killed([parts, *parts.children(recursive=True)])
    cluster.head.kill()
    for worker in cluster.workers:
        assert eventually(worker.ended, 150)
        worker.kill()
    for each in (cluster.head, *cluster.workers):
        each.start()
    assert eventually(lambda: client.show("shared")["state"] == "COMPLETE", 200), client.show("shared")
    assert client.show("shared")["attempts"] == 2
    trials = client.trials("shared")
    assert [each["state"] for each in trials] == ["COMPLETE"] * 4
    assert all(each["attempts"] == 1 for each in trials if each["trial_id"] in done)
    assert len(client.table(["shared"], "csv").splitlines()) == 5
    client.close()
