"""What the service's tests share; see tests/services.py."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from services import Cluster, Service, make_loop
from starlette.testclient import TestClient

from ssl_sweep.service import api
from ssl_sweep.service.guard import Rate
from ssl_sweep.service.loop import Loop
from ssl_sweep.service.store import Store


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "checks", Rate(per_second=100, burst=1000))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.fixture
def ann(service: Service) -> Iterator[TestClient]:
    """Somebody who may submit."""
    with service.client("ann") as client:
        yield client


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    """The service behind a real server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service.app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'service.db'}")


@pytest.fixture
def loop(tmp_path: Path, store: Store, cluster: Cluster) -> Loop:
    return make_loop(tmp_path, store, cluster)
