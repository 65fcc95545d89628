"""Ledger, folders and MLflow of different ages: at the end of the next driver they agree, and so does the table."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from rich.console import Console

from ssl_sweep.cluster.run import Ending
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.ledger.sampling import SearchState
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep import drive, finish
from ssl_sweep.sweep.steering import ResumeSelection
from ssl_sweep.sweep.storage_check import check_storage, mended
from ssl_sweep.tables.options import table_of
from ssl_sweep.tracking.reader import runs
from ssl_sweep.trial.claim import claim
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import AttemptStarted, Ended, StageFinished
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import TrialRecord

METRIC, GRAY = "knn/top1_test", "views.gray"
SPEC = SweepSpec.model_validate(
    {
        "name": "demo",
        "data": {"source": "digits", "image_size": 8},
        "encoder": "resnet18",
        "method": "autoencoder",
        "evaluate": {"knn": {}},
        "search": {"space": {GRAY: {"low": 0.0, "high": 1.0}}, "sampler": "random", "trials": 4, "seeds": 1},
    }
)


@pytest.fixture
def storage(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(finish, "make_page", lambda *_: "")  # its plots take seconds
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return FolderStorage(tmp_path / "runs")


@pytest.fixture
def go(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ledger]:
    """Drive the sweep by so many choices without Ray; a trial's score is `worth` times its knob."""

    def driven(count: int = 4, worth: float = 100.0, *, resumes: bool = True) -> Ledger:
        ledgers: list[Ledger] = []

        def run_sweep(ledger: Ledger, storage: Storage, *_: Any, **__: Any) -> Ending:
            ledgers.append(ledger)
            while len(ledger.choices) < count and ledger.ask() is not None:
                pass
            for trial in [trial for trial in ledger.trials if not trial.ended]:
                knob = ledger.choice(trial.choice).knobs[GRAY]
                results = {METRIC: worth * knob, "knn/top1_val": worth * knob}
                attempt(ledger, storage, trial.trial_id, results)
            return Ending(interrupted=False, halted=None)

        monkeypatch.setattr(drive, "run_sweep", run_sweep)
        resume = ResumeSelection() if resumes and (storage.root / "ledger.db").exists() else None
        drive.drive(SPEC, storage, Console(file=io.StringIO()), resume=resume)
        return ledgers[0]

    return driven


def attempt(ledger: Ledger, storage: Storage, trial_id: str, results: dict[str, float]) -> None:
    """What an attempt leaves in the trial's folder and in the ledger."""
    trial = next(trial for trial in ledger.trials if trial.trial_id == trial_id)
    folder = storage.trial("demo", trial_id)
    claim(folder, ledger.record(trial))
    journal = Journal(folder)
    journal.append(AttemptStarted(attempt=trial.attempts + 1))
    journal.begin("knn", "key")
    journal.report(results, 1)
    named = {name.removeprefix("knn/"): value for name, value in results.items()}
    journal.append(StageFinished(stage="knn", key="key", seconds=1.0, results=named))
    journal.append(Ended(state="COMPLETE"))
    ledger.update(replace(trial, state="COMPLETE", attempts=trial.attempts + 1, results=results))


def assert_agreed(storage: Storage) -> None:
    """Each trial of the ledger is one active run, with its knobs and its results; and the table has these rows."""
    ledger: LedgerReader = load_ledger(storage.ledger_url, "demo")
    frame = runs(["demo"], storage.tracking_uri)
    listed = sorted((trial.trial_id, ledger.choice(trial.choice).knobs[GRAY], trial.seed) for trial in ledger.trials)
    assert sorted(zip(frame["trial_id"], frame[GRAY], frame["seed"], strict=True)) == listed
    by_id = frame.set_index("trial_id")
    for trial in ledger.trials:
        assert trial.results is not None
        assert (by_id.loc[trial.trial_id, "state"], by_id.loc[trial.trial_id, METRIC]) == (
            "COMPLETE",
            trial.results[METRIC],
        )
    table = table_of({"demo": storage.tracking_uri})
    means = {choice.knobs[GRAY]: choice.trials[0].results[METRIC] for choice in ledger.choices}
    assert {row.key[0]: row.cells[0].mean for row in table.body} == pytest.approx(means)


def keep(storage: Storage, *names: str) -> Path:
    """A backup of these parts of the storage."""
    backup = storage.root.parent / "backup"
    for name in names:
        source = storage.root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, _made(backup / name))
    return backup


def restore(storage: Storage, *names: str) -> None:
    for name in names:
        source, target = storage.root.parent / "backup" / name, storage.root / name
        if source.is_dir():
            shutil.rmtree(target)
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


PARTS = {
    "ledger older": ["ledger.db"],
    "folders older": ["demo"],
    "MLflow older": ["mlflow.db"],
    "ledger and folders older, so MLflow newer": ["ledger.db", "demo"],
    "ledger and MLflow older, so folders newer": ["ledger.db", "mlflow.db"],
    "folders and MLflow older, so ledger newer": ["demo", "mlflow.db"],
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS.keys())
def test_what_is_restored_from_another_state_agrees_at_the_end(
    storage: Storage, go: Callable[..., Ledger], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    go(2)
    keep(storage, *parts)
    before = {trial.trial_id for trial in go(4).trials}
    restore(storage, *parts)
    # a sampler that learns draws otherwise after other results
    monkeypatch.setattr(SearchState, "own_seed", property(lambda state: 1000 + state.position))
    after = {trial.trial_id for trial in go(4, worth=50.0).trials}
    assert_agreed(storage)
    assert len(before & after) == (2 if "ledger.db" in parts else 4)
    client = MlflowClient(storage.tracking_uri)
    experiment = client.get_experiment_by_name("ssl_sweep/demo")
    discarded = client.search_runs([experiment.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    # MLflow keeps, as deleted, the runs that the ledger does not know
    assert len(discarded) == (2 if "ledger.db" in parts and "mlflow.db" not in parts else 0)


def test_a_lost_ledger_makes_each_trial_once(storage: Storage, go: Callable[..., Ledger]) -> None:
    first = go(2)
    before = {trial.trial_id: trial.results for trial in first.trials}
    (storage.root / "ledger.db").unlink()
    with pytest.raises(DamagedFileError, match=r"ledger.db is gone; .*doctor --mend"):
        go(worth=50.0)
    assert not (storage.root / "ledger.db").exists()
    rebuild(storage)
    ledger = go(worth=50.0)
    after = {trial.trial_id: trial.results for trial in ledger.trials}
    assert (ledger.pins, ledger.data) == (first.pins, first.data)
    assert ledger.data.identities.keys() == {"data.source"}
    assert len(before) == 2
    assert len(after) == 4
    assert after == {**after, **before}
    assert_agreed(storage)
    assert sorted(path.name for path in (storage.root / "demo" / "trials").iterdir()) == sorted(after)


def test_a_rebuilt_ledger_knows_that_a_sweep_began_before_data_had_an_identity(
    storage: Storage, go: Callable[..., Ledger]
) -> None:
    for trial in go(2).trials:
        folder = storage.trial("demo", trial.trial_id)
        record = TrialRecord.read(folder)
        config = {key: value for key, value in record.config.items() if key not in ("identities", "unkeyed")}
        replace(record, config=config).write(folder)
    (storage.root / "ledger.db").unlink()
    rebuild(storage)
    assert load_ledger(storage.ledger_url, "demo").data.unkeyed == ["data.source"]


def rebuild(storage: Storage) -> None:
    """What `doctor --mend` does."""
    findings = [mended(finding) for finding in check_storage(storage)]
    assert [finding.found for finding in findings if not finding.ok] == []


def test_an_earlier_versions_first_report_gives_way_to_the_ledger(storage: Storage, go: Callable[..., Ledger]) -> None:
    ledger = go()
    trial = ledger.trials[0]
    run_id = next(iter(_runs_of(storage, trial.trial_id)))
    MlflowClient(storage.tracking_uri).log_metric(run_id, METRIC, 1000.0, step=5)
    assert runs(["demo"], storage.tracking_uri)[METRIC].max() == 1000.0
    go()
    assert_agreed(storage)


def test_of_two_runs_of_a_trial_one_stays(storage: Storage, go: Callable[..., Ledger]) -> None:
    trial = go().trials[0]
    client = MlflowClient(storage.tracking_uri)
    (run_id,) = _runs_of(storage, trial.trial_id)
    tags = client.get_run(run_id).data.tags
    client.create_run(client.get_run(run_id).info.experiment_id, tags=tags)
    assert len(_runs_of(storage, trial.trial_id)) == 2
    go()
    assert len(_runs_of(storage, trial.trial_id)) == 1
    assert_agreed(storage)


def _runs_of(storage: Storage, trial_id: str) -> list[str]:
    client = MlflowClient(storage.tracking_uri)
    experiment = client.get_experiment_by_name("ssl_sweep/demo")
    found = client.search_runs([experiment.experiment_id], f"tags.`ssl_sweep.trial_id` = '{trial_id}'")
    return [run.info.run_id for run in found]
