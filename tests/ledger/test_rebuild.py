"""A search whose ledger was lost and made anew from its trials goes on where it was, whatever its sampler keeps."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored_sweep import begin, complete, spec_of

from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.stored_spec import write_spec
from ssl_sweep.sweep.relearn import rebuild_sweep
from ssl_sweep.trialdir.events import Ended

SPACE = {"views.overlay_alpha": {"low": 0.0, "high": 0.49}, "pretrain.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
CHOICES, EPOCHS = 8, 9


def search(sampler: str) -> dict[str, Any]:
    return {"sampler": sampler, "trials": CHOICES, "seeds": 1, "space": SPACE}


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_the_choices_are_those_of_a_search_that_lost_nothing(tmp_path: Path, sampler: str) -> None:
    spec = spec_of("demo", search=search(sampler))
    whole, lost = made(tmp_path / "whole"), made(tmp_path / "lost")
    assert all_knobs(whole, spec, lost_after=None) == all_knobs(lost, spec, lost_after=5)


@pytest.mark.parametrize("sampler", ["cmaes", "gp", "nsga2"])
def test_a_sampler_whose_own_state_is_lost_goes_on_with_new_choices(tmp_path: Path, sampler: str) -> None:
    knobs = all_knobs(made(tmp_path), spec_of("demo", search=search(sampler)), lost_after=5)
    assert len(knobs) == len({str(each) for each in knobs}) == CHOICES


@pytest.mark.parametrize("pruner", ["asha", "median", "hyperband"])
def test_a_pruner_judges_by_what_it_was_told(tmp_path: Path, pruner: str) -> None:
    own = {"name": "median", "min_choices": 2} if pruner == "median" else {"name": pruner, "min_epochs": 1}
    spec = spec_of("demo", search={**search("random"), "pruner": own}, pretrain={"epochs": EPOCHS})
    whole, lost = made(tmp_path / "whole"), made(tmp_path / "lost")
    ends = all_ends(whole, spec, lost_after=None)
    assert ends == all_ends(lost, spec, lost_after=5)
    assert set(ends) > {EPOCHS}  # some are pruned


def all_knobs(storage: FolderStorage, spec: SweepSpec, lost_after: int | None) -> list[Mapping[str, Any]]:
    """The knobs of all choices of a search, which may lose its ledger after so many."""
    ledger = open_ledger(storage.ledger_url, spec)
    for asked in range(CHOICES):
        if asked == lost_after:
            ledger = remade(storage, spec)
        choice = ledger.ask()
        assert choice is not None
        complete(ledger, storage, choice.trials[0], 50.0 + 40.0 * choice.knobs["views.overlay_alpha"])
    assert ledger.ask() is None
    return [choice.knobs for choice in ledger.choices]


def all_ends(storage: FolderStorage, spec: SweepSpec, lost_after: int | None) -> list[int]:
    """The epochs after which trials end, the later ones better or worse than the first by turns."""
    ledger, ends = open_ledger(storage.ledger_url, spec), []
    for asked in range(CHOICES):
        if asked == lost_after:
            ledger = remade(storage, spec)
        choice = ledger.ask()
        assert choice is not None
        trial, journal = begin(ledger, storage, choice.trials[0])
        value, why, epoch = 50.0 + asked * (-1) ** asked, None, 0
        while why is None and epoch < EPOCHS:
            epoch += 1
            metrics = {spec.search.prune_objective.metric: value}
            journal.report(metrics, epoch)
            why = ledger.report(trial, metrics, epoch)
        if why is None:
            complete(ledger, storage, trial, value)
        else:
            journal.append(Ended(state="PRUNED", message=why))
            ledger.update(replace(trial, state="PRUNED", message=why))
        ends.append(epoch)
    return ends


def made(root: Path) -> FolderStorage:
    """A storage with the sweep's folder."""
    storage = FolderStorage(root)
    storage.sweep("demo").mkdir(parents=True)
    return storage


def remade(storage: FolderStorage, spec: SweepSpec) -> Ledger:
    """The ledger, made anew after its loss."""
    write_spec(storage.sweep("demo"), spec.model_dump(mode="json"))
    (storage.root / "ledger.db").unlink()
    rebuild_sweep(storage, "demo")
    return open_ledger(storage.ledger_url, spec)
