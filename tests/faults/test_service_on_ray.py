"""The whole of it: a client, the service as a process, a real Ray head and real drivers; each is killed in between."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from ssl_sweep.client.client import Client, ServiceError
from ssl_sweep.ledger.lease import driver_of
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.service.jobs import RayJobs
from ssl_sweep.service.store import Store
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage

TOKEN = "a-token-of-the-tests-cluster"
SPEC: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 8},
    "method": "autoencoder",
    "pretrain": {"epochs": 1, "batch_size": 256, "optimizer": "adamw", "lr": 0.003},
    "evaluate": {"knn": {}},
    "precision": "fp32",
    "search": {"space": {"views.overlay_alpha": [0.0, 0.2]}, "objective": "maximize knn/top1_val"},
    "tracking": {"models": "none"},
}
SERVE = """
import sys
from pathlib import Path
from ssl_sweep.service.listener import Listener
from ssl_sweep.service.server import serve
from ssl_sweep.service.settings import Settings
from ssl_sweep.storage.folder_storage import FolderStorage
folder, ray, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = Settings(FolderStorage(folder), (folder,), tick_s=0.2, back_off_s=1)
serve(settings, ray, Listener("127.0.0.1", port))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head on loopback that wants a token; its dashboard's address."""
    port, dashboard = free_port(), free_port()
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder,  # sockets have short paths
    ):
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
        command += [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--disable-usage-stats"]
        # jobs start by the agent, whose default port may be another cluster's of this machine
        command += ["--dashboard-agent-listen-port=0"]
        with (tmp_path_factory.mktemp("head") / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Service:
    """The service's process."""

    def __init__(self, folder: Path, head: str) -> None:
        self.folder, self.head, self.port = folder, head, free_port()
        self.storage, self.ray = FolderStorage(folder), RayJobs(head)
        token = Store(self.storage.service_url).create_token("ann", "submitter")[0]
        self.client = Client(f"http://127.0.0.1:{self.port}", token)
        self.process: subprocess.Popen[bytes] | None = None

    def jobs(self) -> list[str]:
        """The names of all jobs that were submitted to the head."""
        listed = self.ray._ask("GET", "/api/jobs/").json()
        return [each["submission_id"] for each in listed if each["submission_id"]]

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, str(self.folder), self.head, str(self.port)]
        with (self.folder / "service.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers, "the service")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "service.log").read_text()
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def lab(head: str, tmp_path: Path) -> Iterator[Service]:
    """A service that has been started."""
    made = Service(tmp_path, head)
    made.start()
    yield made
    assert made.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    made.client.close()
    made.ray.close()


@pytest.mark.slow
def test_a_sweep_outlives_a_killed_service(lab: Service) -> None:
    """Slow: it starts Ray, a driver, and the service twice."""
    client = lab.client
    submitted = client.submit(yaml.safe_dump(SPEC), key="tiny")
    wait_for(lambda: client.show("tiny")["state"] in ("LAUNCHING", "RUNNING"), "the launch")
    lab.end(signal.SIGKILL)
    lab.start()
    assert client.submit(yaml.safe_dump(SPEC), key="tiny")["created"] == submitted["created"]
    with pytest.raises(ServiceError, match=r"was submitted before|there are results"):
        client.submit(yaml.safe_dump(SPEC))
    events = list(client.events("tiny"))
    assert events[-1]["state"] == "COMPLETE", client.show("tiny")
    ended = [each["trial_id"] for each in events if each.get("trial_state") == "COMPLETE"]
    assert sorted(ended) == sorted(each["trial_id"] for each in client.trials("tiny"))
    assert client.show("tiny")["attempts"] == len(lab.jobs()) == 1
    assert "knn" in client.table(["tiny"])
    assert "<html" in client.report("tiny")


@pytest.mark.slow
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="`make test-faults`: two drivers and a stop")
def test_a_sweep_outlives_a_killed_driver(lab: Service) -> None:
    """Slow: two drivers start Ray."""
    client, before = lab.client, len(lab.jobs())
    long = {**SPEC, "name": "long", "pretrain": {**SPEC["pretrain"], "epochs": 100_000}}
    client.submit(yaml.safe_dump(long))
    driver = wait_for(lambda: pid_of_driver(lab.storage, "long"), "its driver")
    wait_for(lambda: client.status("long")["running"], "a trial")
    os.kill(driver, signal.SIGKILL)
    wait_for(lambda: pid_of_driver(lab.storage, "long", other=driver), "another driver")
    assert client.show("long")["attempts"] == 2
    assert client.stop("long")["asked"] == "stop"
    wait_for(lambda: client.show("long")["state"] == "STOPPED", "its end")
    assert len(lab.jobs()) - before == 2


def pid_of_driver(storage: Storage, name: str, other: int | None = None) -> int | None:
    """The process that drives a sweep, if it is not that other one."""
    try:
        held = driver_of(load_ledger(storage.ledger_url, name).notes)
    except ValueError:
        return None
    return held["pid"] if held and held["pid"] != other else None
