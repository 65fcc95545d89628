"""What the service's tests share; see tests/services.py."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from services import Cluster, Service, make_dispatcher
from starlette.testclient import TestClient

from ssl_sweep.service import write_endpoints
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.middleware import RateLimiter
from ssl_sweep.service.store import Store


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_endpoints, "spec_checks", RateLimiter(per_second=100, burst=1000))


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
def dispatcher(tmp_path: Path, store: Store, cluster: Cluster) -> Dispatcher:
    return make_dispatcher(tmp_path, store, cluster)
