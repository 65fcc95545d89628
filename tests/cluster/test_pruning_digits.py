"""ASHA on real trainings of the digits: it stops the bad learning rates and keeps the best one."""

from pathlib import Path

import pytest

from ssl_sweep.cluster.scheduler import Launch, LedgerScheduler
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.training.loop import Stop
from ssl_sweep.trial.attempt import attempt
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.requests import read_stop_request

SPEC = {
    "name": "digits",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 8},
    "method": "autoencoder",
    "pretrain": {"epochs": 4, "batch_size": 128, "optimizer": "adamw"},
    "health": {"bank": 500, "images": 200},
    "evaluate": {"knn": {"k": 5}},
    "search": {
        "space": {"pretrain.lr": [0.003, 1e-7, 1e-6, 3e-7, 1e-8]},
        "pruner": {"name": "asha", "min_epochs": 2, "reduction_factor": 2},
        "seeds": 2,
    },
    "precision": "fp32",
}


class Nobody:
    """A observer of nothing."""

    def started(self, trial: Trial) -> None: ...
    def reported(self, trial: Trial, report: MetricsReported) -> None: ...
    def ended(self, trial: Trial) -> None: ...


@pytest.mark.slow  # 16 epochs of a small ResNet
def test_the_best_learning_rate_survives_and_the_bad_ones_stop_at_a_rung(tmp_path: Path, cache: Path) -> None:
    storage = FolderStorage(tmp_path)
    search = LedgerScheduler(open_ledger(storage.ledger_url, from_dump(SPEC)), storage, Nobody())
    while isinstance(given := search.next("only"), Launch):

        def report(metrics: dict[str, float], step: int, folder: Path = given.folder) -> None:
            search.report("only", metrics, step)
            if (wish := read_stop_request(folder)) is not None:
                raise Stop(wish.why)

        search.end("only", attempt(given.record, given.attempt, report, given.folder, cache))
    ends = {choice.knobs["pretrain.lr"]: [trial.state for trial in choice.trials] for choice in search.ledger.choices}
    assert ends.pop(0.003) == ["COMPLETE", "COMPLETE"]
    assert list(ends.values()) == [["PRUNED", "PRUNED"]] * 4
    rungs = []
    for trial in [trial for trial in search.ledger.trials if trial.state == "PRUNED" and trial.attempts]:
        events = read(storage.trial("digits", trial.trial_id))[0]
        rungs.append([event.step for event in events if event.name == "report"][-1])
        assert (events[-1].state, events[-1].message) == ("PRUNED", trial.message)
        assert trial.message.startswith(f"pruned at epoch {rungs[-1]}, with pretrain/knn_top1_val ")
    assert set(rungs) <= {2, 4}
    assert rungs.count(2) >= 2
