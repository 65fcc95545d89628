"""What a sweep stands on is pulled away while it runs: folders, runs in MLflow, the disk, the clock.

Each sweep ends with all trials complete, each setting and seed with one run in MLflow, and the right table.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import use_up_inodes
from mlflow import MlflowClient
from servers import eventually

from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import last_event

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
KILLS = min(20, int(os.environ.get("SSL_SWEEP_FAULTS", "1")))
STEPS = 25
Started = subprocess.Popen[bytes]

pytestmark = [
    pytest.mark.slow,  # each test starts Ray
    pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="starts of Ray: make test-faults"),
]


@pytest.fixture
def ends(check_end: Callable[..., None], check_table: Callable[..., None]) -> Callable[..., str]:
    """Waits for a driver's end and holds its sweep against an undisturbed one: `ends(driver, storage)`; its output."""

    def check(driver: Started, storage: Path, steps: int = STEPS, *, repeated: int = 4, whole: bool = True) -> str:
        said = end_of(driver, ExitCode.COMPLETE)
        check_end(storage, steps, repeated, whole=whole)
        check_table(storage, steps)
        return said

    return check


def end_of(driver: Started, code: ExitCode) -> str:
    """The output of a driver that ends with this code."""
    try:
        output, _ = driver.communicate(timeout=240)
    finally:
        driver.kill()
    said = output.decode()
    assert driver.returncode == code, said
    assert "Traceback" not in said, said
    return said


def running(storage: Path) -> list[Path]:
    """The folders of the trials that are at work."""
    folders = storage.glob("faults/trials/*")
    return [folder for folder in folders if not isinstance(last_event(folder), Ended)]


def remove(folder: Path, aside: Path) -> None:
    """Delete a folder as a whole: what writes to it while its files are deleted makes some of them anew."""
    shutil.rmtree(folder.rename(aside))


@pytest.mark.parametrize("whole", [False, True])
def test_folders_of_trials_deleted_while_they_run(
    tmp_path: Path,
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    ends: Callable[..., str],
    whole: bool,
) -> None:
    storage = tmp_path / "runs"
    driver = start_driver(storage, STEPS)
    wait_for_steps(driver, storage)
    for folder in [storage / "faults" / "trials"] if whole else running(storage):
        remove(folder, tmp_path / folder.name)
    ends(driver, storage, whole=False)


@pytest.mark.parametrize("role", ["trial", "parent"])
def test_runs_deleted_in_mlflow_while_they_are_written(
    tmp_path: Path,
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    ends: Callable[..., str],
    role: str,
) -> None:
    driver = start_driver(tmp_path, STEPS)
    wait_for_steps(driver, tmp_path)
    client = MlflowClient(FolderStorage(tmp_path).tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'ssl_sweep/faults'")
    query = f"tags.ssl_sweep.role = '{role}'"
    assert eventually(lambda: client.search_runs([experiment.experiment_id], query))
    deleted = client.search_runs([experiment.experiment_id], query)
    for run in deleted:
        client.delete_run(run.info.run_id)
    said = ends(driver, tmp_path)
    assert f"run {deleted[0].info.run_id} has been deleted in MLflow" in " ".join(said.split())


@pytest.fixture
def lockable(tmp_path: Path) -> Iterator[Callable[[bool], Path]]:
    """`lockable(True)` makes a folder read-only, also for a process that has opened files in it; returns the folder."""
    folder, disk = tmp_path / "runs", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    mounted = subprocess.run(["mount", "--bind", str(disk), str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no folder can be mounted here: {mounted.stderr.strip()}")

    def lock(locked: bool) -> Path:
        if locked:  # a second mount on the first: one with open files cannot be made read-only
            subprocess.run(["mount", "--bind", str(disk), str(folder)], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        elif not os.access(folder, os.W_OK):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return folder

    try:
        yield lock
    finally:
        lock(False)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_storage_that_becomes_read_only(
    lockable: Callable[[bool], Path],
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    ends: Callable[..., str],
) -> None:
    storage = lockable(False)
    driver = start_driver(storage, STEPS)
    wait_for_steps(driver, storage)
    lockable(True)
    said = end_of(driver, ExitCode.USER_ERROR)
    assert f"the file system of {storage}" in said
    assert "is read-only" in said
    lockable(False)
    ends(start_driver(storage, STEPS), storage)


@pytest.mark.parametrize("small_disk", ["size=64m,nr_inodes=2000"], indirect=True)
def test_a_disk_that_runs_out_of_inodes(
    small_disk: Path,
    tmp_path: Path,
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    ends: Callable[..., str],
) -> None:
    driver = start_driver(small_disk, STEPS)
    wait_for_steps(driver, small_disk)
    ballast = use_up_inodes(small_disk)
    said = end_of(driver, ExitCode.USER_ERROR)
    assert "hardly an inode for another file" in said
    shutil.rmtree(ballast)
    ends(start_driver(small_disk, STEPS), small_disk)


@pytest.mark.skipif(FAKETIME is None, reason="needs the Debian package faketime")
@pytest.mark.parametrize("shift", ["-1h", "+1h"])
def test_a_clock_that_is_set(
    tmp_path: Path,
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    ends: Callable[..., str],
    shift: str,
) -> None:
    """The driver's clock alone: Ray's own processes do not start under libfaketime."""
    clock, storage = tmp_path / "clock", tmp_path / "runs"
    clock.write_text("+0")
    settings = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    driver = start_driver(storage, STEPS, LD_PRELOAD=str(FAKETIME), **settings)
    wait_for_steps(driver, storage)
    clock.write_text(shift)
    ends(driver, storage, repeated=0)


def test_twins_that_start_at_once(
    tmp_path: Path, start_driver: Callable[..., Started], ends: Callable[..., str]
) -> None:
    drivers = [start_driver(tmp_path, 2 * STEPS) for _ in range(2)]
    assert eventually(lambda: any(driver.poll() is not None for driver in drivers), 300)
    drives, refused = sorted(drivers, key=lambda driver: driver.poll() is not None)
    assert "another driver is running this sweep" in end_of(refused, ExitCode.TRY_AGAIN)
    ends(drives, tmp_path, 2 * STEPS, repeated=0)


@pytest.mark.timeout(300 + 30 * KILLS)
def test_killed_in_its_first_seconds_again_and_again(
    tmp_path: Path, start_driver: Callable[..., Started], ends: Callable[..., str]
) -> None:
    rng = random.Random(KILLS)
    for _ in range(KILLS):
        driver = start_driver(tmp_path, STEPS)
        time.sleep(rng.uniform(0.0, 3.0))
        driver.kill()
        driver.communicate(timeout=60)
    ends(start_driver(tmp_path, STEPS), tmp_path, repeated=2 * KILLS)
