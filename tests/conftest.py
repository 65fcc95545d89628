import logging
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import S3, Postgres

# before torch is imported: as many threads as a trial of one CPU has, so that numbers do not depend on the machine
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a shell that runs no terminal has Ctrl-C ignored in what it starts with `&`, and a sweep leaves it ignored
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded data, shared by all tests of a session as by all trials of a node."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs: to create its tables takes MLflow seconds."""
    from ssl_sweep.tracking import store  # MLflow, which most tests do without

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    store.MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def stored_sweeps(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A storage with two sweeps that have ended and are in MLflow; tests work on copies of it."""
    from stored_sweep import delivered, spec_of, stored

    root = tmp_path_factory.mktemp("stored") / "runs"
    root.mkdir()
    shutil.copy(empty_store, root / "mlflow.db")
    for name in ("demo", "other"):
        spec = spec_of(name, search={"seeds": 2 if name == "demo" else 1})
        stored(root, spec)
        delivered(root, spec)
    return root


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path) -> str:
    """A store of the test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def after_warning() -> Iterator[Callable[[logging.Logger, Callable[[], object]], None]]:
    """Does something half a second after a logger's next warning, however long that takes to come."""
    watched: list[tuple[logging.Logger, logging.Handler]] = []

    def arrange(logger: logging.Logger, act: Callable[[], object]) -> None:
        def begin(record: logging.LogRecord) -> bool:
            logger.removeHandler(handler)
            threading.Timer(0.5, act).start()
            return False

        handler = logging.Handler(logging.WARNING)
        handler.addFilter(begin)
        logger.addHandler(handler)
        watched.append((logger, handler))

    yield arrange
    for logger, handler in watched:
        logger.removeHandler(handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL; a test that kills it starts it again."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        for engine in SqlAlchemyStore._engine_map.values():  # MLflow keeps its connections
            engine.dispose()
        server.remove()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3, Path]]:
    """An S3 server, and the folder of its buckets; a test that kills it starts it again."""
    folder = tmp_path_factory.mktemp("buckets")
    with S3(folder) as server:
        yield server, folder


@pytest.fixture
def lab(s3_server: tuple[S3, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket of the test's own as its server keeps it, a folder. The environment says how to reach it."""
    import boto3  # the server does not look for a folder that it has not made

    server, folder = s3_server
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket = folder / f"lab-{uuid.uuid4().hex[:8]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket.name)
    return bucket


@pytest.fixture
def rays_folder() -> Iterator[Path]:
    """A temporary folder short enough for Ray's sockets: a RAY_TMPDIR of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No test reads or writes what the user has set up."""
    for name in ("STORAGE", "LEDGER", "DATA", "SERVICE_DB", "SERVER", "TOKEN", "CONFIG", "WEBHOOK_URL"):
        monkeypatch.delenv(f"SSL_SWEEP_{name}", raising=False)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_SWEEP_CACHE", str(cache))
