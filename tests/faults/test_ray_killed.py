"""Ray's own processes killed or stopped under a driver, and stopped workers and drivers: nobody waits for ever.

Each takes two starts of Ray or waits out a limit: `make test-faults` runs them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from servers import eventually

from ssl_sweep.ledger.lease import driver_of
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.trialdir.watchdog import HEARTBEAT_FILE, process_of

STEPS = 70
Driver = subprocess.Popen[bytes]
pytestmark = pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="two starts of Ray: make test-faults")


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()
    ]
    return [each for child in children for each in (child, *descendants(child))]


def of_ray(driver: Driver, name: str) -> int:
    """The one process of the driver's Ray whose program or title has this name."""

    def is_it(pid: int) -> bool:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return command.split(b"\0")[0].split(b"/")[-1].decode() == name

    found = [pid for pid in descendants(driver.pid) if is_it(pid)]
    assert len(found) == 1, (name, found)
    return found[0]


def resumed(start_driver: Callable[..., Driver], storage: Path) -> None:
    """Go on with the sweep, to its end."""
    again = start_driver(storage, STEPS)
    try:
        said, _ = again.communicate(timeout=400)
    finally:
        again.kill()
    assert again.returncode == 0, said.decode()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "sent", "cause"),
    [
        ("raylet", signal.SIGKILL, "Ray's raylet (process {pid} on "),
        ("ray::DashboardAgent", signal.SIGKILL, "Ray's raylet (process "),
        ("gcs_server", signal.SIGKILL, "Ray's gcs_server (process {pid} on "),
        ("gcs_server", signal.SIGSTOP, "no answer for 55 s from Ray's head at "),
    ],
)
def test_a_driver_whose_ray_has_died_says_so_and_leaves_all_to_go_on_with(
    tmp_path: Path,
    start_driver: Callable[..., Driver],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
    name: str,
    sent: signal.Signals,
    cause: str,
) -> None:
    """Slow: two starts of Ray. Without an end of its own the driver would wait for ever, or die with Ray's words."""
    driver = start_driver(tmp_path, STEPS)
    try:
        wait_for_steps(driver, tmp_path)
        struck = of_ray(driver, name)
        os.kill(struck, sent)
        said, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    words = said.decode()
    assert driver.returncode == ExitCode.BROKEN_CLUSTER, words
    assert cause.format(pid=struck) in words
    assert f"ssl-sweep resume faults --storage {tmp_path}" in words
    if sent == signal.SIGSTOP:
        assert f"which is stopped: `kill -CONT {struck}`" in words
    assert "Traceback" not in words
    ledger = load_ledger(FolderStorage(tmp_path).ledger_url, "faults")
    assert not [trial for trial in ledger.trials if trial.lost]  # the dead cluster is not the trials' fault
    resumed(start_driver, tmp_path)
    check_end(tmp_path, STEPS, repeated=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_whose_cluster_loses_its_head_says_so_and_ends(
    tmp_path: Path,
    start_driver: Callable[..., Driver],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
) -> None:
    """Slow: two starts of Ray. It sees no process of a cluster that is not its own, only that none answers."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    address = cluster.address
    try:
        driver = start_driver(tmp_path, STEPS, RAY_ADDRESS=address)
        try:
            wait_for_steps(driver, tmp_path)
            cluster.head_node.kill_gcs_server()
            said, _ = driver.communicate(timeout=200)
        finally:
            driver.kill()
    finally:
        cluster.shutdown()
    words = " ".join(said.decode().split())
    assert driver.returncode == ExitCode.BROKEN_CLUSTER, words
    assert f"no answer for 55 s from Ray's head at {address}" in words
    assert "Traceback" not in words
    resumed(start_driver, tmp_path)
    check_end(tmp_path, STEPS, repeated=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("presses", [1, 2])
def test_a_user_who_presses_ctrl_c_is_not_held_up_by_a_ray_that_does_not_answer(
    tmp_path: Path,
    start_driver: Callable[..., Driver],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
    presses: int,
) -> None:
    """Slow: two starts of Ray. Once is enough within the time that Tune has to end its trials; twice ends at once."""
    driver = start_driver(tmp_path, STEPS)
    try:
        wait_for_steps(driver, tmp_path)
        os.kill(of_ray(driver, "gcs_server"), signal.SIGSTOP)
        for _ in range(presses):
            driver.send_signal(signal.SIGINT)
            time.sleep(2.0)
        said, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == ExitCode.INTERRUPTED, said.decode()
    assert "Traceback" not in said.decode()
    resumed(start_driver, tmp_path)
    check_end(tmp_path, STEPS, repeated=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pause_ends_a_driver_whose_workers_are_stopped(
    tmp_path: Path,
    start_driver: Callable[..., Driver],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
) -> None:
    """Slow: two starts of Ray, and 45 s until the trials count as silent."""
    driver = start_driver(tmp_path, STEPS)
    try:
        wait_for_steps(driver, tmp_path)
        alive = [process_of(path) for path in tmp_path.glob(f"faults/trials/*/{HEARTBEAT_FILE}")]
        workers = [process.pid for process in alive if process is not None and process.state == "running"]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        command = [sys.executable, "-m", "ssl_sweep", "pause", "faults", "--storage", str(tmp_path)]
        asked = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
        said, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert "one that gives no sign of life for 45 s ends where its last checkpoint is" in asked.stdout
    assert driver.returncode == ExitCode.INTERRUPTED, said.decode()
    assert "has given no sign of life since " in said.decode()
    states = {trial.state for trial in load_ledger(FolderStorage(tmp_path).ledger_url, "faults").trials}
    assert states <= {"PAUSED", "COMPLETE", "CREATED"}
    assert eventually(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()], 60)
    resumed(start_driver, tmp_path)
    check_end(tmp_path, STEPS, repeated=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_that_was_stopped_finds_the_sweep_taken_and_writes_nothing(
    tmp_path: Path,
    start_driver: Callable[..., Driver],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
) -> None:
    """Slow: two starts of Ray, and 20 s in which the second driver watches the first one's lease."""
    first = start_driver(tmp_path, STEPS)
    try:
        wait_for_steps(first, tmp_path)
        first.send_signal(signal.SIGSTOP)
        (tmp_path / "faults" / "driver.lock").unlink()  # as if the second were on another machine: a lock of its own
        second = start_driver(tmp_path, STEPS)
        try:
            assert eventually(lambda: second.poll() is not None or driving(tmp_path) == second.pid, 300)
            assert second.poll() is None, second.communicate()[0].decode()
            time.sleep(5.0)  # it is at work
            first.send_signal(signal.SIGCONT)
            said, _ = first.communicate(timeout=200)
            rest, _ = second.communicate(timeout=400)
        finally:
            second.kill()
    finally:
        first.kill()
    assert second.returncode == 0, rest.decode()
    assert first.returncode == ExitCode.TRY_AGAIN, said.decode()
    assert f"process {second.pid} on " in said.decode()
    assert "taken" in said.decode()
    check_end(tmp_path, STEPS, repeated=4)


def driving(storage: Path) -> int:
    """The process of the sweep's driver."""
    driver = driver_of(load_ledger(FolderStorage(storage).ledger_url, "faults").notes)
    return driver["pid"] if driver else 0
