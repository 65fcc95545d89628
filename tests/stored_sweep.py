"""Finished sweeps as drivers leave them in a storage, without Ray and training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.stored_spec import write_spec
from ssl_sweep.sweep.storage_identity import settle
from ssl_sweep.tracking.recorder import Recorder
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.events import AttemptStarted, Ended, StageFinished
from ssl_sweep.trialdir.journal import Journal

METRIC = "knn/top1_val"


def spec_of(name: str, **rest: Any) -> SweepSpec:
    """A grid of two alphas by two seeds, unless `search` says otherwise."""
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": {"name": "resnet18", "width": 4}}
    search = {"space": {"views.overlay_alpha": [0.0, 0.2]}, "seeds": 2, **rest.pop("search", {})}
    evaluations = {"evaluate": {"knn": {}}, "pretrain": {"epochs": 2}, "tracking": {"models": "none"}}
    return from_dump({"name": name, **base, "method": "autoencoder", **evaluations, "search": search, **rest})


def begin(ledger: Ledger, storage: Storage, trial: Trial) -> tuple[Trial, Journal]:
    """Start the next attempt at a trial, as the scheduler and the attempt do."""
    trial = replace(trial, state="RUNNING", attempts=trial.attempts + 1)
    ledger.update(trial)
    folder = storage.trial(ledger.spec.name, trial.trial_id)
    ledger.record(trial).write(folder)
    journal = Journal(folder)
    journal.append(AttemptStarted(attempt=trial.attempts))
    return trial, journal


def complete(ledger: Ledger, storage: Storage, trial: Trial, value: float) -> None:
    """Run a trial to its end, with this value of the objective."""
    trial, journal = begin(ledger, storage, trial)
    folder = journal.path.parent
    for epoch in (1, 2):
        journal.report({"pretrain/loss": 1 / epoch}, epoch)
    journal.append(StageFinished(stage="pretrain", key="p", seconds=1.5, results={"loss": 0.5}))
    journal.append(StageFinished(stage="knn", key="k", seconds=0.5, results={"top1_val": value, "top1_test": value}))
    stages = {"pretrain": {"key": "p", "results": {"loss": 0.5}}}
    stages["knn"] = {"key": "k", "results": {"top1_val": value, "top1_test": value}}
    (folder / "stages.json").write_text(json.dumps(stages))
    checkpoint.save(encoder_path(folder), {"encoder": {"weight": torch.zeros(8)}})
    journal.append(Ended(state="COMPLETE"))
    results = {"pretrain/loss": 0.5, "knn/top1_val": value, "knn/top1_test": value}
    ledger.update(replace(trial, state="COMPLETE", results=results))


def stored(root: Path, spec: SweepSpec) -> Ledger:
    """Run a whole sweep into a storage."""
    storage = FolderStorage(root)
    storage.sweep(spec.name).mkdir(parents=True)
    ledger = open_ledger(storage.ledger_url, spec)
    write_spec(storage.sweep(spec.name), spec.model_dump(mode="json"))
    value = 50.0
    while choice := ledger.ask():
        for trial in choice.trials:
            complete(ledger, storage, trial, value)
            value += 1.25
    return ledger


def delivered(root: Path, spec: SweepSpec) -> None:
    """Deliver a sweep to the storage's MLflow, as its driver does."""
    storage = FolderStorage(root)
    dump = spec.model_dump(mode="json")
    recorder = Recorder(spec.name, storage.sweep(spec.name), storage.tracking_uri, dump)
    recorder.start()
    recorder.finish("COMPLETE")
    assert recorder.close(120) == 0


def copied(root: Path, to: Path) -> FolderStorage:
    """A copy of a storage, which knows that it is one."""
    shutil.copytree(root, to)
    settle(FolderStorage(to))
    return FolderStorage(to)
