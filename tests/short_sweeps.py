"""What a driver writes of a sweep, without training: its ledger, its files and its runs in MLflow."""

from typing import Any

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger, open_notes
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.storage_identity import keep_sweep_id, settle
from ssl_sweep.tracking.recorder import sync
from ssl_sweep.trialdir.events import ArtifactAdded, AttemptStarted, Ended
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import TrialRecord

NAME = "demo"


def spec() -> SweepSpec:
    search: Any = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3]}, "seeds": 1}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump({"name": NAME, **base, "evaluate": {"knn": {}}, "search": search})


def next_trial(storage: Storage) -> str:
    """A driver starts and runs one more trial, which logs a picture; returns the trial's id."""
    storage.check(storage.tracking_uri)
    notes = open_notes(storage.ledger_url, spec())
    storage_id = settle(storage)
    ledger = open_ledger(storage.ledger_url, spec())
    keep_sweep_id(storage, NAME, storage.tracking_uri, notes, storage_id)
    choice = ledger.ask()
    assert choice is not None
    trial: Trial = choice.trials[0]
    folder = storage.trial(NAME, trial.trial_id)
    (folder / "artifacts").mkdir(parents=True)
    config = ledger.config(choice.knobs, trial.seed)
    TrialRecord(trial.trial_id, NAME, choice.number, trial.seed, knobs=choice.knobs, config=config).write(folder)
    (folder / "artifacts" / "pictures.png").write_bytes(trial.trial_id.encode())
    journal = Journal(folder)
    journal.append(AttemptStarted(attempt=1))
    journal.append(ArtifactAdded(path="artifacts/pictures.png"))
    journal.append(Ended(state="COMPLETE"))
    sync(NAME, storage.sweep(NAME), storage.tracking_uri)
    return trial.trial_id
