"""MLflow's database while another process writes: readers wait, and end with one message."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssl_sweep.tracking import locked_file, store
from ssl_sweep.tracking.locked_file import MlflowLockedError


@pytest.fixture
def lock(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A writer that locks the store of `uri`, until its `rollback`."""
    monkeypatch.setattr(locked_file, "BUSY_S", 0.05)
    connection = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    yield connection
    connection.close()


def test_a_locked_store_is_waited_for(
    lock: sqlite3.Connection, uri: str, caplog: pytest.LogCaptureFixture, after_warning: Callable[..., None]
) -> None:
    after_warning(locked_file.log, lock.rollback)
    assert store.sweep_names(store.connect(uri)) == []
    assert [record.message.partition(" ")[2] for record in caplog.records] == [
        "is locked by another process; waiting for at most 60 s"
    ]


def test_a_store_that_stays_locked_is_told_with_a_remedy(
    lock: sqlite3.Connection, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_file, "PATIENCE_S", 0.2)
    with pytest.raises(
        MlflowLockedError, match=r"locked by another process for 0.2 s; end that process \(`fuser .*\.db"
    ):
        store.connect(uri)


def test_a_damaged_store_is_left_to_its_reader(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text("no database" * 100)
    locked_file.await_unlocked(file)
