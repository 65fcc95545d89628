"""The ledger's promise: killed between any two writes and opened again, it goes on as if nothing had happened."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from ssl_sweep.ledger.entries import LedgerError, Trial
from ssl_sweep.ledger.open import load_ledger, open_ledger, open_notes, sweep_names
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump

METRIC = "knn/top1_val"
SAMPLERS = ["random", "qmc", "tpe", "gp", "cmaes"]


def spec(name: str = "sweep", **search: object) -> SweepSpec:
    """A small spec; a grid of two alphas by two seeds unless the test says otherwise."""
    wanted = {"space": {"views.overlay_alpha": [0.0, 0.2]}, "seeds": 2, "sampler": "grid", **search}
    return from_dump(
        {
            "name": name,
            "data": {"source": "digits", "image_size": 8},
            "encoder": "resnet18",
            "method": "autoencoder",
            "evaluate": {"knn": {}},
            "search": wanted,
        }
    )


def complete(ledger: Ledger, trial: Trial, value: float) -> None:
    ledger.update(replace(trial, state="COMPLETE", attempts=1, results={METRIC: value}))


def study(url: str) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=url)


def test_a_grid_is_asked_in_the_files_order_and_ends(url: str) -> None:
    ledger = open_ledger(url, spec())
    choices = [ledger.ask(), ledger.ask()]
    assert [choice.knobs for choice in choices] == [{"views.overlay_alpha": 0.0}, {"views.overlay_alpha": 0.2}]
    assert [[trial.seed for trial in choice.trials] for choice in choices] == [[0, 1], [0, 1]]
    assert len({trial.trial_id for trial in ledger.trials}) == 4
    assert ledger.ask() is None


def test_the_sampler_is_told_the_mean_of_the_seeds_once_all_are_done(url: str) -> None:
    ledger = open_ledger(url, spec())
    first, second = ledger.ask().trials
    complete(ledger, first, 40.0)
    assert study(url).trials[0].state == TrialState.RUNNING
    complete(ledger, second, 50.0)
    assert (study(url).trials[0].state, study(url).trials[0].value) == (TrialState.COMPLETE, 45.0)


def test_a_choice_with_a_failed_seed_is_told_failed(url: str) -> None:
    ledger = open_ledger(url, spec())
    first, second = ledger.ask().trials
    complete(ledger, first, 40.0)
    ledger.update(replace(second, state="FAILED", reason="diverged", message="loss is nan"))
    assert study(url).trials[0].state == TrialState.FAIL


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_finite_number_is_told_failed(url: str, value: float | None) -> None:
    ledger = open_ledger(url, spec())
    first, second = ledger.ask().trials
    complete(ledger, first, 40.0)
    results = {"pretrain/loss": 1.0} if value is None else {METRIC: value}
    ledger.update(replace(second, state="COMPLETE", results=results))
    assert study(url).trials[0].state == TrialState.FAIL
    assert [trial.state for trial in open_ledger(url, spec()).trials] == ["COMPLETE", "COMPLETE"]


def test_opened_again_it_knows_every_trial_under_its_old_id(url: str) -> None:
    ledger = open_ledger(url, spec())
    choice = ledger.ask()
    complete(ledger, choice.trials[0], 40.0)
    ledger.update(replace(choice.trials[1], state="RUNNING", attempts=1))
    again = open_ledger(url, spec())
    assert again.trials == ledger.trials
    assert [trial.state for trial in again.trials] == ["COMPLETE", "RUNNING"]
    assert again.ask().knobs == {"views.overlay_alpha": 0.2}
    assert again.ask() is None


def test_killed_between_proposing_and_asking(url: str) -> None:
    ledger = open_ledger(url, spec())
    ledger._proposals.enqueue(0)  # a point of the grid is enqueued, and the driver dies
    again = open_ledger(url, spec())
    assert again.choices == []
    assert [again.ask().knobs["views.overlay_alpha"] for _ in range(2)] == [0.0, 0.2]
    assert again.ask() is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_killed_between_asking_and_writing_the_knobs(url: str, sampler: str) -> None:
    wanted = spec(space={"views.overlay_alpha": {"low": 0.0, "high": 0.4}}, sampler=sampler, trials=2)
    open_ledger(url, wanted)._study.ask()  # Optuna made the trial, nothing was suggested yet
    again = open_ledger(url, wanted)
    assert len(again.choices) == 1
    assert 0 <= again.choices[0].knobs["views.overlay_alpha"] <= 0.4
    stored = study(url).trials[0].params
    assert stored == again.choices[0].knobs


def test_killed_between_the_last_seed_and_telling(url: str) -> None:
    ledger = open_ledger(url, spec(seeds=1))
    trial = ledger.ask().trials[0]
    ledger._open[0].write(replace(trial, state="COMPLETE", results={METRIC: 70.0}))
    again = open_ledger(url, spec(seeds=1))
    assert again.trials[0].state == "COMPLETE"
    assert study(url).trials[0].value == 70.0


TWO = {"views.overlay_alpha": {"low": 0.0, "high": 0.4}, "pretrain.lr": {"low": 0.001, "high": 1.0, "log": True}}


def search(url: str, sampler: str, reopened: bool = False, trials: int = 13) -> list[tuple[float, float]]:
    """The choices of a search for 0.1 and 0.004, of which every fourth fails."""
    wanted = spec(space=TWO, sampler=sampler, trials=trials, seeds=1)
    ledger = open_ledger(url, wanted)
    for number in range(trials):
        if reopened:
            ledger = open_ledger(url, wanted)
        choice = ledger.ask()
        alpha, lr = choice.knobs.values()
        if number % 4 == 0:
            ledger.update(replace(choice.trials[0], state="FAILED", reason="crash"))
        else:
            complete(ledger, choice.trials[0], 50.0 - 100 * (alpha - 0.1) ** 2 - (math.log10(lr) + 2.4) ** 2)
    return [tuple(choice.knobs.values()) for choice in ledger.choices]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_search_does_not_repeat_itself_and_an_unbroken_one_is_the_same(tmp_path: Path, sampler: str) -> None:
    unbroken = search(f"sqlite:///{tmp_path / 'a.db'}", sampler)
    assert len(set(unbroken)) == 13
    assert search(f"sqlite:///{tmp_path / 'b.db'}", sampler, reopened=True) == unbroken


def test_qmc_gives_consecutive_points_of_one_sequence(tmp_path: Path) -> None:
    points = np.array(search(f"sqlite:///{tmp_path / 'a.db'}", "qmc", reopened=True, trials=16))
    unit = np.stack([points[:, 0] / 0.4, (np.log10(points[:, 1]) + 3) / 3], axis=1)
    # a Sobol sequence's first 2^k points fall one into each of 2^k slices, and squares, of the space
    for axis in (0, 1):
        assert sorted(np.floor(16 * unit[:, axis])) == list(range(16))
    assert len({tuple(square) for square in np.floor(4 * unit)}) == 16


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "qmc"])
def test_choices_that_are_asked_for_at_once_differ(url: str, sampler: str) -> None:
    ledger = open_ledger(url, spec(space=TWO, sampler=sampler, trials=6, seeds=1))
    assert len({tuple(ledger.ask().knobs.values()) for _ in range(6)}) == 6


def test_cmaes_keeps_its_generations_and_closes_in(tmp_path: Path) -> None:
    points = search(f"sqlite:///{tmp_path / 'a.db'}", "cmaes", reopened=True, trials=60)
    distances = [abs(alpha - 0.1) / 0.4 + abs(math.log10(lr) + 2.4) / 3 for alpha, lr in points]
    assert sum(distances[-15:]) < 0.5 * sum(distances[:15])


def test_cmaes_searches_a_single_knob(url: str) -> None:
    one = {"views.overlay_alpha": {"low": 0.0, "high": 0.4}}
    ledger = open_ledger(url, spec(space=one, sampler="cmaes", trials=12, seeds=1))
    for _ in range(12):
        choice = ledger.ask()
        complete(ledger, choice.trials[0], -abs(choice.knobs["views.overlay_alpha"] - 0.3))
    assert max(trial.results[METRIC] for trial in ledger.trials) > -0.03


def test_failed_trials_are_retried_under_their_own_ids_and_complete_ones_are_kept(url: str) -> None:
    ledger = open_ledger(url, spec())
    first, second = ledger.ask().trials
    complete(ledger, first, 40.0)
    ledger.update(replace(second, state="FAILED", attempts=3, failures=3, reason="crash"))
    ledger.retry(ledger.choices[0], [second.trial_id])
    assert [(trial.trial_id, trial.state, trial.attempts, trial.failures) for trial in ledger.trials] == [
        (first.trial_id, "COMPLETE", 1, 0),
        (second.trial_id, "CREATED", 3, 0),  # its attempts are counted on, its budget is whole again
    ]
    again = open_ledger(url, spec())
    assert again.trials == ledger.trials
    complete(again, again.trials[1], 60.0)
    assert study(url).best_value == 50.0
    assert again.ask().knobs == {"views.overlay_alpha": 0.2}  # a retry is no point of the grid
    assert again.ask() is None


def test_a_stopped_trial_of_a_choice_that_goes_on_is_taken_up_in_it(url: str) -> None:
    ledger = open_ledger(url, spec())
    first, second = ledger.ask().trials
    ledger.update(replace(first, state="STOPPED", attempts=1))
    ledger.retry(ledger.choices[0], [first.trial_id])
    assert [trial.state for trial in ledger.trials] == ["CREATED", "CREATED"]
    for trial, value in ((first, 40.0), (second, 50.0)):
        complete(ledger, trial, value)
    assert [(each.state, each.value) for each in study(url).trials] == [(TrialState.COMPLETE, 45.0)]


def test_killed_in_the_middle_of_a_retry(url: str) -> None:
    ledger = open_ledger(url, spec(seeds=1))
    trial = ledger.ask().trials[0]
    ledger.update(replace(trial, state="FAILED", reason="crash"))
    ledger._study.enqueue_trial({"views.overlay_alpha": 0.0}, user_attrs={"root": 0})
    again = open_ledger(url, spec(seeds=1))
    taken_up = again.ask()
    assert (taken_up.number, taken_up.trials[0].trial_id) == (0, trial.trial_id)
    assert again.ask().knobs == {"views.overlay_alpha": 0.2}
    assert again.ask() is None


def test_a_resume_that_was_killed_in_a_retry_and_is_resumed_loses_no_choice(url: str) -> None:
    ledger = open_ledger(url, spec(seeds=1))
    trial = ledger.ask().trials[0]
    ledger.update(replace(trial, state="FAILED", reason="crash"))
    ledger._study.enqueue_trial({"views.overlay_alpha": 0.0}, user_attrs={"root": 0})
    again = open_ledger(url, spec(seeds=1))
    again.retry(again.choices[0], [trial.trial_id])
    assert again.ask().knobs == {"views.overlay_alpha": 0.2}
    assert again.ask() is None


def test_a_first_driver_that_was_refused_binds_nobody(url: str) -> None:
    """It has made the study, with its direction, and nothing more."""
    open_notes(url, spec())
    changed = spec().model_dump(mode="json")
    changed["search"]["objective"] = changed["search"]["objective"].replace("maximize", "minimize")
    open_notes(url, from_dump(changed))
    assert [each.name for each in study(url).directions] == ["MINIMIZE"]


def test_another_spec_under_the_same_name_is_refused_and_says_what_differs(url: str) -> None:
    open_ledger(url, spec())
    changed = from_dump({**spec().model_dump(mode="json"), "pretrain": {"epochs": 7}})
    with pytest.raises(LedgerError, match=r"pretrain\.epochs: 50 became 7"):
        open_ledger(url, changed)


def test_what_does_not_change_results_may_change(url: str) -> None:
    open_ledger(url, spec())
    open_ledger(url, from_dump({**spec().model_dump(mode="json"), "retries": 5}))
    assert load_ledger(url, "sweep").spec.retries == 5


def test_loading_names_the_sweeps_there_are(url: str) -> None:
    open_ledger(url, spec("flowers"))
    open_ledger(url, spec("digits"))
    assert sweep_names(url) == ["digits", "flowers"]
    with pytest.raises(LedgerError, match="no sweep named 'flower' here; there is digits, flowers"):
        load_ledger(url, "flower")
