"""What compose.yaml runs, run on loopback by the same commands: a sweep goes through all of it.

In `make test-faults` only: it starts a Ray head and a worker that ask for a token, PostgreSQL, an S3 server, and an
MLflow that knows its users.
"""

import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from servers import S3, Postgres, Server, free_port

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
        self.gcs, self.dashboard, self.mlflow = free_port(), free_port(), free_port()
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
        metrics = free_port()
        self.servers = [
            Server(self._command("mlflow"), self.mlflow, env=mlflow_env),
            Server([*self._command("head"), "--temp-dir", f"{folder}/ray"], self.dashboard, env=self.env),
            Server([*self._command("worker", metrics), "--num-cpus=2", "--num-gpus=0"], metrics, env=self.env),
        ]

    def _command(self, service: str, metrics: int | None = None) -> list[str]:
        command = SERVICES[service]["command"].replace("=8080", f"={metrics or free_port()}")
        return shlex.split(self._here(command))

    def _here(self, text: str) -> str:
        changes = {
            "ssl_sweep@postgres/": f"ssl@127.0.0.1:{self._postgres.port}/",
            "head:6379": f"127.0.0.1:{self.gcs}",
            "--port=6379": f"--port={self.gcs} --node-ip-address=127.0.0.1",
            "--dashboard-port=8265": f"--dashboard-port={self.dashboard}",
            "0.0.0.0": "127.0.0.1",
            "--port 5000": f"--port {self.mlflow}",
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
        ours = set(psutil.Process().children(recursive=True)) - before
        for process in ours:
            with suppress(psutil.NoSuchProcess):  # it went with its parent
                process.kill()
        psutil.wait_procs(ours, timeout=10)
        for server in started:
            server.kill()
        postgres.remove()


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
