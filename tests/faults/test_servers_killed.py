"""Databases and MLflow's server killed while a sweep runs, and brought back: it goes on and ends as if undisturbed.

Each takes over a minute: `make test-faults` runs them.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import Mlflow, Postgres, eventually

from ssl_sweep.trialdir.journal import read

STEPS = 25  # 8 trials, two at a time, a tenth of a second each: the sweep outlasts the faults
Driver = subprocess.Popen[bytes]
AWAY_S = 60.0  # of MLflow

pytestmark = pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="over a minute each: make test-faults")


@contextmanager
def ended_with(driver: Driver) -> Iterator[Driver]:
    """A driver that does not outlive the block."""
    try:
        yield driver
    finally:
        driver.kill()
        driver.communicate(timeout=60)


def reports(storage: Path) -> int:
    """How many steps the trials have reported."""
    return sum(event.name == "report" for folder in storage.glob("faults/trials/*") for event in read(folder)[0])


def goes_on(driver: Driver, storage: Path, steps: int, timeout_s: float = 120.0) -> None:
    """Wait until so many more steps are reported: a fault is to hit a sweep at work."""
    wanted = reports(storage) + steps
    assert eventually(lambda: reports(storage) >= wanted or driver.poll() is not None, timeout_s)
    assert driver.poll() is None, driver.communicate()[0]


@pytest.mark.slow
def test_postgresql_killed_and_started_again(
    tmp_path: Path,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    start_driver: Callable[..., Driver],
    check_end: Callable[..., None],
) -> None:
    """Slow: PostgreSQL makes its files, Ray and MLflow start. Ledger and MLflow are both on it."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    monkeypatch.setenv("SSL_SWEEP_LEDGER", postgres.create("ledger_faults"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.create("mlflow_faults"))
    with ended_with(start_driver(tmp_path, STEPS)) as driver:
        for _ in range(2):
            goes_on(driver, tmp_path, 10)
            postgres.kill()
            time.sleep(3.0)
            assert driver.poll() is None
            postgres.start()
        errors = driver.communicate(timeout=200)[0].decode()
    assert driver.returncode == 0, errors
    assert "cannot be reached" in errors
    assert "can be reached again" in errors
    shown = [path for path in tmp_path.rglob("*") if path.is_file() and postgres.password.encode() in path.read_bytes()]
    assert not shown
    assert postgres.password not in errors
    check_end(tmp_path, STEPS, repeated=0)


@pytest.mark.slow
def test_mlflow_killed_and_started_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_driver: Callable[..., Driver],
    check_end: Callable[..., None],
) -> None:
    """Slow: Ray starts, and MLflow's server twice. It is away for a while; no step is later for it."""
    server = Mlflow(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    steps = STEPS + round(3 * AWAY_S)
    server.start()
    try:
        with ended_with(start_driver(tmp_path, steps)) as driver:
            goes_on(driver, tmp_path, 10)
            server.kill()
            gone = time.monotonic()
            while time.monotonic() < gone + AWAY_S:
                goes_on(driver, tmp_path, 1, 5.0)
                time.sleep(1.0)
            server.start()
            errors = driver.communicate(timeout=200)[0].decode()
        assert driver.returncode == 0, errors
        assert errors.count("cannot be reached; the sweep") == errors.count("can be reached again") == 1
        check_end(tmp_path, steps, repeated=0)
    finally:
        server.kill()
