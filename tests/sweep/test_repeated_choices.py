"""A resume with other knobs: failed choices run again as new ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.steering import ResumeSelection, prepare_resume

METRIC = "knn/top1_val"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path)


def opened(storage: Storage) -> Ledger:
    search = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2]}, "seeds": 2, "sampler": "grid"}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    spec = from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search})
    return open_ledger(storage.ledger_url, spec)


def failed_sweep(storage: Storage) -> Ledger:
    """A grid of three choices with two seeds: one complete, one with a seed that diverged, one not begun."""
    ledger = opened(storage)
    for choice, states in ((ledger.ask(), "CC"), (ledger.ask(), "CF")):
        for trial, letter in zip(choice.trials, states, strict=True):  # type: ignore[union-attr]
            ended = {"C": {"state": "COMPLETE", "results": {METRIC: 50.0}}, "F": {"state": "FAILED"}}[letter]
            ledger.update(replace(trial, attempts=1, **ended))  # type: ignore[arg-type]
    return ledger


def test_settings_of_a_resume_make_new_choices_of_the_failed_ones(storage: Storage) -> None:
    ledger, said = failed_sweep(storage), list[str]()
    before = {trial.trial_id: trial for trial in ledger.trials}
    assert prepare_resume(ledger, ResumeSelection(settings={"pretrain.clip_norm": 1.0}), {}, said.append) is None
    assert said[0].startswith("1 failed choice runs again with pretrain.clip_norm = 1.0, as new settings")
    again = opened(storage)
    for each in (ledger, again):
        added = each.choices[-1]
        assert added.knobs == {"views.overlay_alpha": 0.1, "pretrain.clip_norm": 1.0}
        assert (added.settings, added.instead_of) == ({"pretrain.clip_norm": 1.0}, 1)
        assert [trial.state for trial in added.trials] == ["CREATED", "CREATED"]
        assert each.config(added.knobs, 0)["pretrain"]["clip_norm"] == 1.0
        assert {trial.trial_id: trial for trial in each.trials} | before == {
            trial.trial_id: trial for trial in each.trials
        }
        assert each.total == 8  # 6 of the grid, and the 2 seeds of the new choice
    third = again.ask()
    assert third is not None
    assert third.knobs == {"views.overlay_alpha": 0.2}  # the grid goes on
    assert again.ask() is None


def test_settings_are_added_once_and_a_new_choice_that_fails_is_itself_resumed(storage: Storage) -> None:
    ledger = failed_sweep(storage)
    clipped = ResumeSelection(failed=True, settings={"pretrain.clip_norm": 1.0})
    assert len(prepare_resume(ledger, clipped, {}) or ()) == 3  # the failed trial, which stays, and two new ones
    for trial in ledger.choices[-1].trials:
        ledger.update(replace(trial, state="FAILED", attempts=1))
    prepare_resume(ledger, clipped, {})
    assert len(ledger.choices) == 3
    assert [trial.state for trial in ledger.choices[1].trials] == ["COMPLETE", "FAILED"]
    assert [trial.state for trial in ledger.choices[-1].trials] == ["CREATED", "CREATED"]
    for trial in ledger.choices[-1].trials:
        ledger.update(replace(trial, state="FAILED", attempts=1))
    prepare_resume(ledger, replace(clipped, settings={"pretrain.clip_norm": 0.1}), {})
    assert ledger.choices[-1].settings == {"pretrain.clip_norm": 0.1}
    assert ledger.choices[-1].instead_of == 2
    named = ResumeSelection(trials=[ledger.choices[1].trials[1].trial_id])
    prepare_resume(ledger, named, {})
    assert ledger.choices[1].trials[1].state == "CREATED"  # the old setting runs again only when it is named


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views.overlay_alpha": 0.3}, "views.overlay_alpha: the search decides it"),
        ({"pretrain.clip_norm": -1.0}, "greater than"),
        ({"pretrain.clip": 1.0}, "clip_norm"),
    ],
)
def test_settings_that_do_not_fit_leave_the_sweep_as_it_is(
    storage: Storage, settings: dict[str, Any], message: str
) -> None:
    ledger = failed_sweep(storage)
    with pytest.raises(UserError, match=message):
        prepare_resume(ledger, ResumeSelection(settings=settings), {})
    assert len(ledger.choices) == 2
    assert ledger.choices[1].trials[1].state == "FAILED"


def test_settings_need_a_failed_trial(storage: Storage) -> None:
    ledger = opened(storage)
    for trial in ledger.ask().trials:  # type: ignore[union-attr]
        ledger.update(replace(trial, state="STOPPED", attempts=1))
    with pytest.raises(LedgerError, match="no trial that this resume runs has failed"):
        prepare_resume(ledger, ResumeSelection(settings={"pretrain.clip_norm": 1.0}), {})
