"""Damaged small files: each command names the file, what is wrong and the remedy, and nothing is silently wrong."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console
from stored_sweep import copied, spec_of
from typer.testing import CliRunner, Result

from ssl_sweep.cli import app
from ssl_sweep.cluster.run import Ending
from ssl_sweep.errors import UserError
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep import drive

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 3]),
    "zeros": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "garbage": lambda path: path.write_bytes(b"\xff\xfe{[" * 300),
    "folder": folder,
}


@pytest.fixture
def storage(stored_sweeps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStorage:
    monkeypatch.chdir(tmp_path)
    # Ray starts for seconds, and is not what is tested
    monkeypatch.setattr(drive, "run_sweep", lambda *_, **__: Ending(interrupted=False, halted=None))
    return copied(stored_sweeps, tmp_path / "runs")


def call(*words: object) -> Result:
    """Run a command; it ends by its exit code, without a trace."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)
    return result


def refuses(path: Path, *words: object) -> str:
    """A command that exits with 2 and names the file and a remedy; returns its message."""
    result = call(*words)
    assert result.exit_code == 2, (words, result.output)
    assert str(path) in result.output.replace("\n", ""), (words, result.output)
    assert any(remedy in result.output for remedy in ("doctor --mend", "remove it", "change its mode")), result.output
    return result.output


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_no_storage_without_sweeps(storage: FolderStorage, damage: str) -> None:
    path = storage.root / "ledger.db"
    DAMAGES[damage](path)
    for words in (
        ["list"], ["status", "demo"], ["logs", "demo"], ["stop", "demo"], ["resume", "demo"], ["clean", "demo", "-y"],
        ["extend", "demo", "--choices", "+1"], ["export", "demo", "x.safetensors"], ["table", "demo"],
    ):  # fmt: skip
        refuses(path, *words)
    with pytest.raises(UserError, match="is "):
        load_ledger(storage.ledger_url, "demo")
    assert path.is_dir() or path.stat().st_size != 1  # nothing was written to it
    assert call("doctor", "--mend").exit_code == 0
    assert call("resume", "demo").exit_code == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_mlflow_store_is_told(storage: FolderStorage, damage: str) -> None:
    path = storage.root / "mlflow.db"
    DAMAGES[damage](path)
    for words in (["table", "demo"], ["report", "demo"], ["sync", "demo"], ["resume", "demo"]):
        refuses(path, *words)
    assert call("status", "demo").exit_code == 0  # which needs the ledger alone


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_spec_is_told_where_it_is_read(storage: FolderStorage, damage: str) -> None:
    path = storage.sweep("demo") / "spec.yaml"
    DAMAGES[damage](path)
    for words in (["table", "demo"], ["report", "demo"], ["sync", "demo"]):
        refuses(path, *words)
    assert call("list").exit_code == call("table", "other").exit_code == 0
    if damage == "folder":
        refuses(path, "resume", "demo")
    else:
        assert call("resume", "demo").exit_code == 0  # every driver writes it
        assert call("table", "demo").exit_code == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_of_trials_hold_up_no_other(storage: FolderStorage, empty_store: Path, damage: str) -> None:
    first, second, *_ = (trial.trial_id for trial in load_ledger(storage.ledger_url, "demo").trials)
    config, journal = storage.trial("demo", first) / "config.yaml", storage.trial("demo", second) / "journal.jsonl"
    for path in (config, journal):
        DAMAGES[damage](path)
    shutil.copy(empty_store, storage.root / "mlflow.db")  # nothing is delivered yet
    told = refuses(config, "sync", "demo")
    is_seen = damage not in ("half", "empty")  # by its lines: so a killed writer leaves a journal too
    assert (str(journal) in told.replace("\n", "")) == is_seen
    shown = call("status", "demo")
    assert shown.exit_code == 0
    assert f"trial {first[:8]}: {config}" in shown.output.replace("\n", "")
    assert damage == "half" or f"trial {second[:8]}: {journal}" in shown.output.replace("\n", "")
    table = call("table", "demo")
    assert table.exit_code == 0
    lacking = [first[:8]] if damage == "half" else [first[:8], second[:8]]
    words = f"not here: {len(lacking)} complete trials ({'; '.join(lacking)}); ssl-sweep sync demo says why"
    assert words in table.output
    assert call("logs", "demo").exit_code == call("resume", "demo").exit_code == 0
    assert call("doctor", "--mend").exit_code == 0
    assert "not here" not in call("table", "demo").output


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_holds_no_results_is_made_anew_or_named(storage: FolderStorage, damage: str) -> None:
    spool, lock = storage.sweep("demo") / "recorded.json", storage.sweep("demo") / "driver.lock"
    lock.touch()
    for path in (spool, lock):
        DAMAGES[damage](path)
    if damage == "folder":
        refuses(lock, "resume", "demo")
        lock.rmdir()
    if damage in ("folder", "garbage"):
        refuses(spool, "resume", "demo")
        assert call("doctor", "--mend").exit_code == 0
    assert call("resume", "demo").exit_code == 0
    assert call("sync", "demo").exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as only root can")
def test_a_file_that_may_not_be_read_is_named(
    storage: FolderStorage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trial = load_ledger(storage.ledger_url, "demo").trials[0].trial_id
    paths = {
        "ledger.db": ["list"], "mlflow.db": ["table", "demo"], "demo/spec.yaml": ["table", "demo"],
        f"demo/trials/{trial}/config.yaml": ["sync", "demo"], f"demo/trials/{trial}/journal.jsonl": ["sync", "demo"],
    }  # fmt: skip
    for words in paths.values():
        call(*words)  # imports what it needs: this interpreter may be root's alone; and makes locks
    for parent in (tmp_path, *list(tmp_path.parents)[:-2]):
        mode = parent.stat().st_mode
        parent.chmod(mode | 0o055)
        request.addfinalizer(lambda parent=parent, mode=mode: parent.chmod(mode))
    for path in (storage.root, *storage.root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    os.seteuid(65534)
    try:
        for name, words in paths.items():
            (storage.root / name).rename(tmp_path / "runs" / "kept")
            (storage.root / name).write_bytes(b"x")
            os.seteuid(0)
            (storage.root / name).chmod(0)
            os.chown(storage.root / name, 0, 0)
            os.seteuid(65534)
            refuses(storage.root / name, *words)
            (tmp_path / "runs" / "kept").rename(storage.root / name)
    finally:
        os.seteuid(0)


def test_a_sweep_that_cannot_be_read_leaves_the_others_in_the_list(storage: FolderStorage) -> None:
    notes: Any = load_ledger(storage.ledger_url, "demo").notes
    notes.write("spec", {"name": "demo", "encoder": 3})
    listed = call("list")
    assert listed.exit_code == 0
    assert "other" in listed.output
    assert "demo cannot be read: the stored spec" in listed.output


def test_a_lost_sweep_does_not_begin_anew(storage: FolderStorage) -> None:
    optuna.delete_study(storage=storage.ledger_url, study_name="demo")
    console = Console(file=io.StringIO())
    with pytest.raises(UserError, match=r"demo has trials, but the ledger at .* has no sweep 'demo'.*doctor --mend"):
        drive.drive(spec_of("demo"), storage, console)
    assert call("doctor", "--mend").exit_code == 0
    assert "complete 4" in call("status", "demo").output
