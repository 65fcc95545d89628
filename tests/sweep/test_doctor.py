"""`ssl-sweep doctor --storage`: what it finds in a storage, and that `--mend` makes it as it was."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored_sweep import begin, complete, copied, spec_of
from typer.testing import CliRunner

from ssl_sweep.api.table import make_table
from ssl_sweep.cli import app
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.lease import sole_driver
from ssl_sweep.ledger.open import load_ledger, open_ledger, sweep_names
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep.storage_check import check_storage, mended
from ssl_sweep.tables.render import render
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import read

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture
def storage(stored_sweeps: Path, tmp_path: Path) -> FolderStorage:
    return copied(stored_sweeps, tmp_path / "runs")


def wrong(storage: FolderStorage) -> list[str]:
    return [finding.check for finding in check_storage(storage) if not finding.ok]


def mend(storage: FolderStorage) -> list[str]:
    """Mend everything; returns what was done."""
    done = [mended(finding) for finding in check_storage(storage) if not finding.ok]
    assert all(finding.ok for finding in done), done
    return [finding.found for finding in done]


def trials(storage: FolderStorage, name: str = "demo") -> list[Trial]:
    return load_ledger(storage.ledger_url, name).trials


def table(storage: FolderStorage) -> str:
    return render(make_table(["demo"], storage), "md")


def first_trial(storage: FolderStorage) -> Path:
    return storage.trial("demo", trials(storage)[0].trial_id)


def test_a_whole_storage_is_found_whole(storage: FolderStorage) -> None:
    found = list(check_storage(storage))
    assert all(finding.ok for finding in found), found
    assert {"ledger", "demo: files", "other: files", "demo: MLflow"} <= {finding.check for finding in found}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "emptied"])
def test_a_lost_ledger_is_made_anew_from_the_folders(storage: FolderStorage, damage: Callable[[Path], object]) -> None:
    before, shown, other = trials(storage), table(storage), trials(storage, "other")
    damage(storage.root / "ledger.db")
    assert wrong(storage) == ["ledger.db"]
    assert "made sweep demo anew from the folders of 4 trials" in mend(storage)[0]
    assert (trials(storage), trials(storage, "other")) == (before, other)
    assert (table(storage), wrong(storage)) == (shown, [])
    ledger = open_ledger(storage.ledger_url, spec_of("demo"))
    assert (ledger.ask(), ledger.searched) == (None, True)  # nothing runs again


def test_a_lost_mlflow_store_is_delivered_again(storage: FolderStorage, stored_sweeps: Path) -> None:
    shown = table(FolderStorage(stored_sweeps))  # MLflow keeps connections to a file that it has opened
    (storage.root / "mlflow.db").write_bytes(b"\0" * 5000)
    assert wrong(storage)[0] == "mlflow.db"
    assert "renamed it to mlflow.db.damaged-1" in mend(storage)[0]
    assert (table(storage), wrong(storage)) == (shown, [])


def test_a_rebuild_that_was_killed_is_gone_on_with(storage: FolderStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_sweep.ledger import rebuild

    before = trials(storage), trials(storage, "other")
    (storage.root / "ledger.db").unlink()

    class Killed(BaseException):
        pass

    def dies(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(rebuild.Notes, "write", dies)  # after the trials are in the database
        with pytest.raises(Killed):
            mend(storage)
    assert sweep_names(storage.ledger_url) == []
    assert wrong(storage) == ["demo: ledger", "other: ledger"]
    mend(storage)
    assert (trials(storage), trials(storage, "other")) == before


def test_an_older_ledger_learns_what_the_folders_know(storage: FolderStorage) -> None:
    spec = spec_of(
        "third", search={"sampler": "random", "trials": 3, "space": {"pretrain.lr": {"low": 0.1, "high": 1}}}
    )
    storage.sweep("third").mkdir()
    ledger = open_ledger(storage.ledger_url, spec)
    for trial in ledger.ask().trials:
        complete(ledger, storage, trial, 40.0)
    shutil.copy(storage.root / "ledger.db", storage.root / "older")
    for trial in ledger.ask().trials:
        complete(ledger, storage, trial, 60.0)
    running, _ = begin(ledger, storage, ledger.ask().trials[0])
    before = trials(storage, "third")
    shutil.copy(storage.root / "older", storage.root / "ledger.db")
    assert "third: ledger" in wrong(storage)
    mend(storage)
    assert trials(storage, "third") == [*before[:4], running, trials(storage, "third")[-1]]


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "folder", "gone"])
def test_files_are_made_anew_from_the_others(storage: FolderStorage, damage: str) -> None:
    shown, before = table(storage), trials(storage)
    folders = [storage.trial("demo", trial.trial_id) for trial in before]
    rebuilt = [folders[0] / "config.yaml", folders[1] / "stages.json", storage.sweep("demo") / "spec.yaml"]
    paths = [*rebuilt, folders[2] / "journal.jsonl", *([storage.sweep("demo") / "recorded.json"] * (damage != "gone"))]
    contents = {path: path.read_bytes() for path in paths}
    for path, content in contents.items():
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "gone":
            path.write_bytes(
                {"empty": b"", "half": content[: len(content) // 2], "garbage": b"\xff\x00{[" * 40}[damage]
            )
    assert {path.relative_to(storage.root).as_posix() for path in paths} <= set(wrong(storage))
    mend(storage)
    assert wrong(storage) == []
    assert (table(storage), trials(storage)) == (shown, before)
    for path in rebuilt:
        assert path.read_bytes() == contents[path] or json.loads(path.read_text()) == json.loads(contents[path])
    if damage != "gone":  # nothing is deleted
        assert all(path.with_name(f"{path.name}.damaged-1").exists() for path in paths)


def test_a_journal_keeps_its_whole_lines(storage: FolderStorage) -> None:
    folder = first_trial(storage)
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join([*lines[:2], b"\0" * 9 + b"\n", *lines[2:3], lines[3][:20]]))
    mend(storage)
    events = read(folder)[0]
    assert [event.name for event in events] == ["attempt", "report", "report", "stage", "stage", "end"]
    assert events[-1] == Ended(time=events[-1].time, state="COMPLETE", reason=None, message=None)


def test_nothing_is_mended_while_a_driver_runs_the_sweep(storage: FolderStorage) -> None:
    (storage.sweep("demo") / "recorded.json").write_text("[]")
    notes = load_ledger(storage.ledger_url, "demo").notes
    with sole_driver(storage.sweep("demo"), notes):
        (finding,) = [mended(each) for each in check_storage(storage) if each.check == "demo/recorded.json"]
        assert not finding.ok
        assert "another driver is running this sweep" in finding.found
    assert (storage.sweep("demo") / "recorded.json").read_text() == "[]"


def test_a_damaged_encoder_is_told(storage: FolderStorage) -> None:
    path = first_trial(storage) / "encoder.pt"
    path.write_bytes(path.read_bytes()[:-50])
    (finding,) = [each for each in check_storage(storage) if not each.ok]
    assert finding.check == path.relative_to(storage.root).as_posix()
    assert (finding.source, finding.mend) == (None, None)


def test_trials_of_a_lost_ledger_have_their_states_and_budgets(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    spec = spec_of("demo", search={"seeds": 4}, retries=1)
    storage.sweep("demo").mkdir()
    ledger = open_ledger(storage.ledger_url, spec)
    (tmp_path / "demo" / "spec.yaml").write_text(json.dumps(spec.model_dump(mode="json")) + "\n")
    first, second = ledger.ask(), ledger.ask()
    crash: dict[str, Any] = {"reason": "crash", "message": "ValueError: x"}
    for _ in range(2):
        trial, journal = begin(ledger, storage, ledger.choice(0).trials[0])
        journal.append(Ended(state="FAILED", **crash))
        ledger.update(replace(trial, state="CREATED", failures=trial.failures + 1, **crash))
    given_up = replace(ledger.choice(0).trials[0], state="FAILED", message="ValueError: x (2 times; retries: 1)")
    ledger.update(given_up)
    trial, journal = begin(ledger, storage, first.trials[1])
    journal.append(Ended(state="STOPPED", message="why"))
    ledger.update(replace(trial, state="STOPPED", message="why"))
    trial, journal = begin(ledger, storage, first.trials[2])
    journal.append(Ended(state="INTERRUPTED"))  # the ledger keeps it as RUNNING
    complete(ledger, storage, second.trials[0], 70.0)
    before = trials(storage)
    (tmp_path / "ledger.db").unlink()
    mended(next(finding for finding in check_storage(storage) if not finding.ok))
    after = trials(storage)
    assert [trial for trial in after if trial.attempts] == [trial for trial in before if trial.attempts]
    assert [(trial.choice, trial.seed, trial.state) for trial in after] == [
        (trial.choice, trial.seed, trial.state) for trial in before
    ]


def test_the_command_says_what_it_finds_and_mends_it(storage: FolderStorage) -> None:
    shutil.rmtree(first_trial(storage))
    place = ("--storage", str(storage.root))
    told = CliRunner().invoke(app, ["doctor", *place])
    assert told.exit_code == 2, told.output
    assert f"rebuild: ssl-sweep doctor --mend --storage {storage.root}" in told.output
    assert CliRunner().invoke(app, ["doctor", "--mend", *place]).exit_code == 0
    checks = json.loads(CliRunner().invoke(app, ["doctor", "--json", *place]).stdout)
    assert all(check["ok"] for check in checks)
