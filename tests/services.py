"""A service in this process for tests, and the Rays it may stand before: one that is quiet, one that a test plays."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from starlette.testclient import TestClient

from ssl_sweep.ledger.entries import LEASE
from ssl_sweep.ledger.open import Ledger, open_ledger
from ssl_sweep.service.access import Role
from ssl_sweep.service.app import make_app
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.jobs import Job, RayUnavailableError
from ssl_sweep.service.queue import Capacity
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store, Submission
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trialdir.processes import this_process

API = "/api/v1"
URL = "http://sweeps.lab"
SPEC: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "image_size": 8},
    "encoder": "resnet18",
    "method": "autoencoder",
    "evaluate": {"knn": {}},
    "search": {"space": {"views.overlay_alpha": [0.0, 0.1]}, "seeds": 2},
}


def body(**changes: Any) -> dict[str, Any]:
    """What a request to submit SPEC, with these changes, holds."""
    return {"spec": yaml.safe_dump({**SPEC, **changes})}


class Quiet:
    """A Ray in which nothing happens."""

    def logs(self, name: str) -> str:
        return "the driver's words\n"


class Service:
    """A service whose dispatcher stands still, its database, and a client for each role."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "data").mkdir()
        self.store = Store(f"sqlite:///{folder / 'service.db'}")
        self.settings = Settings(FolderStorage(folder), (folder / "data",), **settings)
        self.dispatcher = Dispatcher(self.store, Quiet(), self.settings)  # type: ignore[arg-type]
        self.dispatcher.capacity = Capacity(4, 2)
        self.app = make_app(self.store, self.dispatcher, self.settings, run_dispatcher=False)

    def client(self, user: str | None, role: Role = "submitter", address: str = "10.0.0.1") -> TestClient:
        headers = {"Authorization": f"Bearer {self.store.create_token(user, role)[0]}"} if user else {}
        base = "http://127.0.0.1:8300" if address == "127.0.0.1" else URL
        return TestClient(self.app, base, headers=headers, client=(address, 5), raise_server_exceptions=False)

    def now(self, name: str = "tiny") -> Submission:
        return submitted(self.store, name)

    def begun(self, name: str = "tiny", state: str = "RUNNING") -> Ledger:
        """The ledger that a driver would have made of a submission."""
        read = self.now(name)
        self.store.change(read, state=state, attempt=1, granted=1)
        ledger = open_ledger(self.settings.storage.ledger_url, from_dump(read.spec))
        if state == "RUNNING":
            hold_lease(ledger)
        return ledger


def hold_lease(ledger: Ledger) -> None:
    """Have this process hold a sweep's lease, as its driver does while it runs."""
    ledger.notes.write(LEASE, {"owner": "driver", **asdict(this_process()), "count": 1})


def submitted(store: Store, name: str = "tiny") -> Submission:
    """A submission as it is now."""
    found = store.get(name)
    assert found is not None
    return found


class Killed(BaseException):
    """The service, by SIGKILL."""


class Cluster:
    """A Ray with two GPUs whose jobs do what the test says."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.commands: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.away = False
        self.kill: str | None = None

    def capacity(self) -> Capacity:
        if self.away:
            raise RayUnavailableError("no Ray cluster answers")
        return Capacity(4, 2)

    def find(self, name: str) -> Job | None:
        self.maybe_die("find")
        return self.jobs.get(name)

    def submit(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.maybe_die("before submit")
        if name not in self.jobs:
            self.jobs[name] = Job("RUNNING", "", None)
            self.commands.append(list(command))
            self.environments.append(environment)
        self.maybe_die("after submit")

    def maybe_die(self, where: str) -> None:
        if self.kill == where:
            self.kill = None
            raise Killed

    def ends(self, status: str = "FAILED", code: int | None = 1, message: str = "") -> None:
        last = list(self.jobs)[-1]
        self.jobs[last] = Job(status, message, code)


def make_dispatcher(folder: Path, store: Store, cluster: Any, **settings: Any) -> Dispatcher:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    return Dispatcher(store, cluster, Settings(FolderStorage(folder), (data,), back_off_s=60, **settings))


def sweep(folder: Path, name: str = "tiny") -> SweepSpec:
    """SPEC, as the service in this folder stores it."""
    return from_dump({**SPEC, "name": name, "root": str(folder / "data")})


def submit(store: Store, folder: Path, name: str = "tiny", **changes: Any) -> Submission:
    """SPEC put into the queue."""
    now = time.time()
    values = {"id": name, "name": name, "owner": "ann", "spec": sweep(folder, name).model_dump(mode="json")}
    values |= {"slots": 4, "cpus": 1, "gpus": 0.5, "created": now, "queued": now}
    return store.add(Submission(**{**values, **changes}))
