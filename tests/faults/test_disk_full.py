"""A disk that runs full: said once, nothing half written, and with room again the sweep ends as if undisturbed."""

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import use_up_inodes

from ssl_sweep.data import pack
from ssl_sweep.data.sources import open_source
from ssl_sweep.trial import attempt as attempts
from ssl_sweep.trialdir import checkpoint, disk, journal
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.events import AttemptStarted, DescriptionSet, Ended
from ssl_sweep.trialdir.record import TrialRecord

STEPS = 20


def fill(folder: Path) -> Path:
    """Take what room there is; the file that holds it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return ballast


def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_of_the_new(small_disk: Path) -> None:
    path = small_disk / "checkpoint.pt"
    checkpoint.save(path, {"weights": torch.zeros(10)})
    fill(small_disk)
    with pytest.raises(disk.DiskFull, match=rf"the disk of {small_disk} is full.*MB free.*ssl-sweep clean"):
        checkpoint.save(path, {"weights": torch.zeros(1_000_000)})
    with pytest.raises(disk.DiskFull):
        write_text(path.with_name("stages.json"), "x" * 100_000)
    assert checkpoint.damage(path) is None
    assert sorted(each.name for each in small_disk.iterdir()) == ["ballast", "checkpoint.pt"]


@pytest.mark.parametrize("small_disk", ["size=16m,nr_inodes=20"], indirect=True)
def test_a_disk_without_inodes_is_full_of_files(small_disk: Path) -> None:
    database = small_disk / "ledger.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE notes (text)")
        use_up_inodes(small_disk)
        words = rf"the disk of {small_disk} is full.*MB free, but hardly an inode for another file\); make room"
        with pytest.raises(disk.DiskFull, match=words), disk.room_in(small_disk):
            connection.execute("INSERT INTO notes VALUES ('x')")  # needs a journal beside the database
        with pytest.raises(disk.DiskFull, match=words):
            write_text(small_disk / "stages.json", "{}")
    with pytest.raises(sqlite3.OperationalError, match="unable to open"), disk.room_in(small_disk.parent):
        sqlite3.connect(small_disk.parent / "none" / "ledger.db")


def test_a_full_disk_leaves_whole_events_only(small_disk: Path) -> None:
    book = journal.Journal(small_disk)
    book.append(AttemptStarted())
    ballast = fill(small_disk)
    with pytest.raises(OSError, match=r"full|space") as caught:
        book.append(DescriptionSet(text="x" * 100_000))
    assert disk.is_full(caught.value)
    ballast.unlink()
    book.append(Ended(state="COMPLETE"))
    assert [event.name for event in journal.read(small_disk)[0]] == ["attempt", "end"]


def test_a_cache_without_room_is_named_and_left_clean(small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk)
    source = open_source("digits", root=tmp_path, split_seed=0)
    with pytest.raises(disk.DiskFull, match=f"the disk of {small_disk} is full"):
        pack.open_packs(source, small_disk, on_error="raise", short_side=None)
    assert not [each for each in small_disk.iterdir() if each.is_dir()]


@pytest.mark.parametrize("moment", ["begin", "work", "end"])
def test_an_attempt_says_that_its_disk_is_full(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def run(config: Mapping[str, Any], report: Any, folder: Path, **_: Any) -> dict[str, float]:
        if moment == "work":
            fill(small_disk)
            checkpoint.save(folder / "checkpoint.pt", {"weights": torch.zeros(1_000_000)})
        if moment == "end":
            fill(small_disk)
            raise ValueError("x" * 6000)  # more than the journal's last block has room for
        return {}

    monkeypatch.setattr(attempts.trial, "run", run)
    if moment == "begin":
        fill(small_disk)
    outcome = attempts.attempt(TrialRecord("t"), 1, print, small_disk / "trial", tmp_path)
    assert (outcome.state, outcome.reason) == ("FAILED", "disk")
    assert "MB free" in (outcome.message or "")


@pytest.mark.slow
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="over a minute: make test-faults")
@pytest.mark.parametrize("everything", [False, True])
def test_a_sweep_whose_disk_runs_full_goes_on_when_there_is_room(
    small_disk: Path,
    tmp_path: Path,
    start_driver: Callable[..., subprocess.Popen[bytes]],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
    everything: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slow: two starts of Ray. Once the trials' disk is full, once the ledger's and MLflow's too."""
    elsewhere = {
        "SSL_SWEEP_LEDGER": f"sqlite:///{tmp_path / 'ledger.db'}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    places = {} if everything else elsewhere
    driver = start_driver(small_disk, STEPS, **places)
    try:
        wait_for_steps(driver, small_disk)
        ballast = fill(small_disk)
        said, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode in (1, 2), said.decode()
    assert f"the disk of {small_disk}" in said.decode()
    assert "is full" in said.decode()
    assert "Traceback" not in said.decode()
    ballast.unlink()
    again = start_driver(small_disk, STEPS, **places)
    try:
        said, _ = again.communicate(timeout=200)
    finally:
        again.kill()
    assert again.returncode == 0, said.decode()
    for name, place in places.items():
        monkeypatch.setenv(name, place)
    check_end(small_disk, STEPS, repeated=4)
