"""How a driver ends: whatever ends it, MLflow does not show as running what runs no more."""

import io
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from optuna.exceptions import StorageInternalError
from rich.console import Console
from typer.testing import CliRunner

from ssl_sweep.api import handle
from ssl_sweep.cli import app
from ssl_sweep.cluster.run import Ending
from ssl_sweep.ledger.lease import sole_driver
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep import drive, finish, interrupted
from ssl_sweep.trialdir.disk import DiskFull
from ssl_sweep.trialdir.events import AttemptStarted, Ended
from ssl_sweep.trialdir.journal import Journal

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture
def storage(tmp_path: Path, uri: str) -> Storage:
    found = FolderStorage(tmp_path)
    assert found.tracking_uri == uri
    return found


@pytest.fixture
def spec() -> SweepSpec:
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump({"name": "demo", **base, "evaluate": {"knn": {}}, "search": {"seeds": 3}})


def begin(ledger: Ledger, storage: Storage) -> None:
    """One trial runs, one has failed and is to be tried again, one has not begun."""
    choice = ledger.ask()
    assert choice is not None
    for trial in choice.trials:
        ledger.update(replace(trial, state="RUNNING", attempts=1))
    for trial in choice.trials[:2]:
        Journal(storage.trial("demo", trial.trial_id)).append(AttemptStarted(attempt=1))
    Journal(storage.trial("demo", choice.trials[1].trial_id)).append(Ended(state="FAILED", reason="lost"))


def statuses(uri: str) -> list[tuple[str, str]]:
    """The role and the status of every run of the sweep."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("ssl_sweep/demo").experiment_id])
    return sorted((run.data.tags["ssl_sweep.role"], run.info.status) for run in runs)


def presses_ctrl_c() -> None:
    raise KeyboardInterrupt


def is_told_to_exit() -> None:
    raise SystemExit(signal.SIGTERM)  # as Ray answers SIGTERM


def breaks() -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("ends", "parent"), [(presses_ctrl_c, "KILLED"), (is_told_to_exit, "KILLED"), (breaks, "FAILED")]
)
def test_nothing_is_left_running_in_mlflow(
    storage: Storage, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch, ends: Callable[[], None], parent: str
) -> None:
    def run_sweep(ledger: Ledger, *_: Any, **__: Any) -> None:
        begin(ledger, storage)
        ends()

    monkeypatch.setattr(drive, "run_sweep", run_sweep)  # Ray starts for seconds, and is not what is tested
    with pytest.raises((KeyboardInterrupt, SystemExit, RuntimeError)):
        drive.drive(spec, storage, Console(file=io.StringIO()))
    assert statuses(storage.tracking_uri) == [("parent", parent), ("trial", "FAILED"), ("trial", "KILLED")]
    trials = open_ledger(storage.ledger_url, spec).trials
    assert [trial.state for trial in trials] == ["RUNNING"] * 3  # to be gone on with


def test_a_spoilt_journal_does_not_leave_the_others_running(
    storage: Storage, spec: SweepSpec, caplog: pytest.LogCaptureFixture
) -> None:
    storage.sweep("demo").mkdir()
    ledger = open_ledger(storage.ledger_url, spec)
    begin(ledger, storage)
    spoilt, _, last = (storage.trial("demo", trial.trial_id) / "journal.jsonl" for trial in ledger.trials)
    Journal(last.parent).append(AttemptStarted(attempt=1))
    spoilt.write_text("no json\n")
    interrupted.end_interrupted(ledger, storage)
    assert '"state": "INTERRUPTED"' in last.read_text()
    assert f"trial {ledger.trials[0].trial_id}: MLflow may show it as running" in caplog.text
    assert "remove that line" in caplog.text


def test_mlflow_that_goes_away_at_the_end_costs_the_table_and_not_the_sweep(
    storage: Storage, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run_sweep(ledger: Ledger, *_: Any, **__: Any) -> Ending:
        choice = ledger.ask()
        assert choice is not None
        for trial in choice.trials:
            ledger.update(replace(trial, state="COMPLETE", results={"knn/top1_val": 50.0}))
        return Ending(interrupted=False, halted=None)

    def gone(*_: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(drive, "run_sweep", run_sweep)
    monkeypatch.setattr(finish, "runs", gone)
    summary = drive.drive(spec, storage, Console(file=io.StringIO()))
    assert (summary.exit_code, summary.table) == (0, None)
    assert "MLflow cannot be read (nobody answers); its table: ssl-sweep table demo" in caplog.text


def test_a_ledger_whose_disk_is_full_is_one_message(
    storage: Storage, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_sweep(*_: Any, **__: Any) -> None:
        try:
            raise sqlite3.OperationalError("database or disk is full")
        except sqlite3.OperationalError as error:
            raise StorageInternalError("an exception is raised during the commit") from error

    monkeypatch.setattr(drive, "run_sweep", run_sweep)
    with pytest.raises(DiskFull, match=f"^the disk of {storage.root} is full.*then: ssl-sweep resume NAME$"):
        drive.drive(spec, storage, Console(file=io.StringIO()))


def test_sync_ends_what_a_killed_driver_left_running_in_mlflow(storage: Storage, spec: SweepSpec) -> None:
    storage.sweep("demo").mkdir()
    ledger = open_ledger(storage.ledger_url, spec)
    begin(ledger, storage)
    Journal(storage.sweep("demo")).append(AttemptStarted())
    before = storage.sweep("demo").joinpath("journal.jsonl").read_text()
    with sole_driver(storage.sweep("demo"), ledger.notes):
        interrupted.end_undriven(storage, "demo")
    assert storage.sweep("demo").joinpath("journal.jsonl").read_text() == before  # a driver runs it
    ran = CliRunner().invoke(app, ["sync", "demo", "--storage", str(storage.root)], catch_exceptions=False)
    assert ran.exit_code == 0
    assert statuses(storage.tracking_uri) == [("parent", "KILLED"), ("trial", "FAILED"), ("trial", "KILLED")]


def test_an_interrupt_before_a_sweep_is_begun_says_so(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted_by_user(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(handle, "run", interrupted_by_user)
    ran = CliRunner().invoke(app, ["run", "spec.yaml"], catch_exceptions=False)
    assert (ran.exit_code, ran.stderr) == (130, "interrupted; nothing was begun\n")
