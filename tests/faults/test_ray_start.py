"""Real drivers where Ray starts badly or not at all: one message, or a way round it that is said.

Each starts a driver, some of them Ray: `make test-faults` runs them.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml
from quick_sweeps import TRAINED, Silent
from ray.cluster_utils import Cluster
from servers import eventually

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage

SPEC = {"name": "started", **TRAINED}
LIMIT_S = 600.0

pytestmark = [
    pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="minutes in all: make test-faults"),
    pytest.mark.slow,  # a driver's imports, and a start of Ray
]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Runs a sweep of one quick trial in a storage of its own."""
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    storage = str(tmp_path / "runs")
    return [sys.executable, "-m", "ssl_sweep", "run", str(tmp_path / "spec.yaml"), "--storage", storage]


def run(command: list[str], **environment: str) -> tuple[int, str]:
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=LIMIT_S)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, ran.stdout + ran.stderr


def test_a_temporary_folder_too_long_for_sockets_is_replaced(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("long" * 20)
    long.mkdir()
    code, said = run(command, TMPDIR=str(long))
    assert code == 0, said
    assert "is too long for Ray's sockets" in said
    assert "Ray takes /tmp/ray" in said


def test_a_home_that_cannot_be_written_needs_no_more_than_a_cache(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = run(command, HOME="/proc/none")
    assert code == 0, said
    monkeypatch.delenv("SSL_SWEEP_CACHE")
    code, said = run(command, HOME="/proc/none")
    assert (code, "set SSL_SWEEP_CACHE to the full path" in said) == (2, True), said


def test_too_few_open_files_are_one_message(command: list[str], tmp_path: Path) -> None:
    code, said = run(["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *command])
    assert (code, "raise it, by `ulimit -Hn 8192`" in said) == (2, True), said
    assert not (tmp_path / "runs").exists()


def test_an_address_where_nothing_listens_is_given_up_soon_with_a_word(command: list[str]) -> None:
    code, said = run(command, RAY_ADDRESS="127.0.0.1:1")
    assert code == 2, said
    assert said.index("no Ray answers at 127.0.0.1:1; waiting") < said.index("nothing answers; check the address")


def test_a_killed_drivers_logs_stay_and_a_later_one_leaves_none(command: list[str], rays_folder: Path) -> None:
    environment = {**os.environ, "RAY_TMPDIR": str(rays_folder)}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: bool(list(rays_folder.glob("ray/session_*/ssl_sweep.pid"))), LIMIT_S)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    time.sleep(5)  # Ray's processes end with their driver
    assert run(command, RAY_TMPDIR=str(rays_folder))[0] == 0
    (left,) = rays_folder.glob("ray/session_2*")
    assert (left / "logs").is_dir()


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[str]:
    """The address of two nodes, the second of which has another ssl_sweep."""
    (tmp_path / "other" / "ssl_sweep").mkdir(parents=True)
    (tmp_path / "other" / "ssl_sweep" / "__init__.py").write_text('__version__ = "9.9"\n')
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2, env_vars={"PYTHONPATH": str(tmp_path / "other")})
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_with_another_version_ends_the_sweep_and_costs_no_retry(mixed: str, tmp_path: Path) -> None:
    search = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2]}, "seeds": 1, "sampler": "grid"}
    storage = FolderStorage(tmp_path / "runs")
    storage.sweep("started").mkdir(parents=True)
    resources = {"cpus": 2, "max_concurrent": 1}  # only the second node has room
    ledger = open_ledger(storage.ledger_url, from_dump({**SPEC, "search": search, "resources": resources}))
    ending = run_sweep(ledger, storage, Silent(), address=mixed)
    assert f"would run ssl_sweep 9.9 of {tmp_path / 'other' / 'ssl_sweep'}" in (ending.halted or "")
    assert "the driver is ssl_sweep" in (ending.halted or "")
    assert Counter((trial.state, trial.failures, trial.lost) for trial in ledger.trials) == {("CREATED", 0, 0): 1}
