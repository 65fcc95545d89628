"""Pruning in the ledger, without Ray: what is reported, who is pruned, which seeds run, and what the study is told."""

from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ssl_sweep.ledger.entries import Choice, Trial
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump

METRIC, WATCHED = "knn/top1_val", "pretrain/knn_top1_val"
ALPHAS = [0.0, 0.1, 0.2, 0.3]


def retry(ledger: Ledger, number: int) -> None:
    """As a resume does that names no trial."""
    choice = ledger.choice(number)
    ledger.retry(choice, [trial.trial_id for trial in choice.trials if trial.state in ("FAILED", "STOPPED")])


def spec(pruner: Any, **search: Any) -> SweepSpec:
    """Four choices in a grid, two seeds each."""
    wanted = {"space": {"views.overlay_alpha": ALPHAS}, "seeds": 2, "pruner": pruner, **search}
    base = {"name": "sweep", "data": {"source": "digits", "image_size": 8}, "pretrain": {"epochs": 9}}
    return from_dump(base | {"encoder": "resnet18", "method": "autoencoder", "evaluate": {"knn": {}}, "search": wanted})


def told(url: str) -> list[tuple[TrialState, float | None]]:
    return [(trial.state, trial.value) for trial in optuna.load_study(study_name="sweep", storage=url).trials]


def start(ledger: Ledger, trial: Trial) -> Trial:
    trial = replace(trial, state="RUNNING", attempts=trial.attempts + 1)
    ledger.update(trial)
    return trial


def complete(ledger: Ledger, trial: Trial, value: float) -> list[Trial]:
    return ledger.update(replace(trial, state="COMPLETE", attempts=1, results={METRIC: value}))


def train(ledger: Ledger, trial: Trial, values: list[float], metric: str = WATCHED, first: int = 1) -> str | None:
    """Report epoch after epoch until the trial is to be pruned."""
    for epoch, value in enumerate(values, first):
        if (why := ledger.report(trial, {"pretrain/loss": 1.0, metric: value}, epoch)) is not None:
            return why
    return None


def run_first(ledger: Ledger, values: list[float]) -> tuple[Choice, str | None]:
    """Run the first seed of a new choice, and end it as the pruner says."""
    choice = ledger.ask()
    trial = start(ledger, ledger.due(choice)[0])
    why = train(ledger, trial, values)
    if why is None:
        complete(ledger, trial, values[-1])
    else:
        ledger.update(replace(trial, state="PRUNED", message=why))
    return ledger.choice(choice.number), why


def test_asha_prunes_at_its_rungs_what_is_not_the_best_third(url: str) -> None:
    ledger = open_ledger(url, spec({"name": "asha", "min_epochs": 1, "reduction_factor": 3}))
    assert run_first(ledger, [50.0] * 9)[1] is None
    _, why = run_first(ledger, [40.0] * 9)
    assert why == "pruned at epoch 1, with pretrain/knn_top1_val 40"
    _, why = run_first(ledger, [60.0, 60.0, 49.0, 70.0])  # the best of three at epoch 1, not at epoch 3
    assert why == "pruned at epoch 3, with pretrain/knn_top1_val 49"
    assert told(url)[1:] == [(TrialState.PRUNED, 40.0), (TrialState.PRUNED, 49.0)]


def test_the_other_seeds_run_once_the_first_is_complete_and_not_when_it_is_pruned(url: str) -> None:
    ledger = open_ledger(url, spec("asha"))
    choice = ledger.ask()
    first, second = choice.trials
    assert ledger.due(choice) == [first]
    train(ledger, start(ledger, first), [50.0] * 9)
    assert ledger.due(ledger.choice(0)) == [replace(first, state="RUNNING", attempts=1)]
    assert complete(ledger, first, 51.0) == []
    assert ledger.due(ledger.choice(0)) == [second]
    assert train(ledger, start(ledger, second), [1.0] * 9) is None  # nobody judges it
    complete(ledger, second, 53.0)
    assert told(url) == [(TrialState.COMPLETE, 52.0)]

    pruned, why = run_first(ledger, [40.0] * 9)
    assert [trial.state for trial in pruned.trials] == ["PRUNED", "PRUNED"]
    assert pruned.trials[1].message == f"not run: seed 0 {why}"
    assert (pruned.trials[1].attempts, ledger.due(pruned), pruned.retriable) == (0, [], False)
    assert told(url)[1] == (TrialState.PRUNED, 40.0)


@pytest.mark.parametrize("state", ["FAILED", "STOPPED"])
def test_a_first_seed_that_does_not_end_well_holds_the_others_back_until_it_is_retried(url: str, state: str) -> None:
    ledger = open_ledger(url, spec("median"))
    choice = ledger.ask()
    first = choice.trials[0]
    train(ledger, start(ledger, first), [50.0] * 4)
    unrun = ledger.update(replace(first, state=state, reason="crash"))
    assert [(trial.state, trial.message) for trial in unrun] == [("STOPPED", f"not run: seed 0 is {state}")]
    assert told(url) == [(TrialState.FAIL, None)]
    assert ledger.choice(0).retriable
    retry(ledger, 0)
    assert [trial.state for trial in ledger.choice(0).trials] == ["CREATED", "CREATED"]
    assert ledger.due(ledger.choice(0)) == [first]


def test_a_retried_choice_keeps_its_epochs_and_its_rungs(url: str) -> None:
    ledger = open_ledger(url, spec({"name": "asha", "reduction_factor": 2}))
    run_first(ledger, [50.0] * 9)
    choice = ledger.ask()
    first = start(ledger, choice.trials[0])
    assert train(ledger, first, [60.0, 60.0, 60.0, 20.0]) == "pruned at epoch 4, with pretrain/knn_top1_val 20"
    third = ledger.ask()
    first = start(ledger, third.trials[0])
    assert train(ledger, first, [70.0, 70.0, 70.0]) is None
    ledger.update(replace(first, state="FAILED", reason="crash"))
    retry(ledger, third.number)
    for again in (ledger, open_ledger(url, ledger.spec)):
        study = optuna.load_study(study_name="sweep", storage=url)
        assert study.trials[-1].intermediate_values == {1: 70.0, 2: 70.0, 3: 70.0}
        assert sorted(key for key in study.trials[-1].system_attrs if "rung" in key) == [
            "completed_rung_0",
            "completed_rung_1",
        ]
        assert again.choice(third.number).trials[0].trial_id == first.trial_id
    retried = start(again, again.choice(third.number).trials[0])
    assert train(again, retried, [0.0, 0.0, 0.0]) is None  # told before: the first value of an epoch stands
    assert train(again, retried, [10.0], first=4) == "pruned at epoch 4, with pretrain/knn_top1_val 10"


def test_an_epoch_that_comes_again_or_too_late_is_passed_over(url: str) -> None:
    ledger = open_ledger(url, spec("asha"))
    trial = start(ledger, ledger.ask().trials[0])
    for epoch, value in [(1, 10.0), (2, 20.0), (1, 99.0), (2, 99.0), (3, float("nan")), (4, 40.0), (3, 99.0)]:
        ledger.report(trial, {WATCHED: value}, epoch)
    ledger.report(trial, {"knn/top1_val": 1.0}, 7)  # another metric
    study = optuna.load_study(study_name="sweep", storage=url)
    assert study.trials[0].intermediate_values == {1: 10.0, 2: 20.0, 4: 40.0}


def test_a_loss_is_told_with_its_sign_turned_where_the_objective_rises(url: str) -> None:
    ledger = open_ledger(url, spec({"name": "asha", "reduction_factor": 2}, prune_on="minimize pretrain/loss"))
    assert train(ledger, start(ledger, ledger.ask().trials[0]), [0.5] * 3, "pretrain/loss") is None
    assert train(ledger, start(ledger, ledger.ask().trials[0]), [0.4] * 3, "pretrain/loss") is None
    why = train(ledger, start(ledger, ledger.ask().trials[0]), [0.6] * 3, "pretrain/loss")
    assert why == "pruned at epoch 1, with pretrain/loss 0.6"


def test_median_prunes_below_the_median_of_the_complete(url: str) -> None:
    ledger = open_ledger(url, spec({"name": "median", "min_choices": 2, "min_epochs": 2}, seeds=1))
    for value in (40.0, 60.0):
        assert run_first(ledger, [value] * 9)[1] is None
    assert run_first(ledger, [49.0] * 9)[1] == "pruned at epoch 2, with pretrain/knn_top1_val 49"
    assert run_first(ledger, [51.0] * 9)[1] is None


def test_hyperband_prunes_within_brackets(url: str) -> None:
    ledger = open_ledger(url, spec("hyperband", space={"evaluate.knn.k": list(range(1, 31))}, seeds=1))
    ended = [run_first(ledger, [float(100 - number)] * 9)[1] for number in range(30)]
    epochs = {why.split(",")[0] for why in ended if why is not None}
    # rungs at 1, 3 and 9 epochs; the bracket decides which is a choice's first
    assert epochs == {"pruned at epoch 1", "pruned at epoch 3", "pruned at epoch 9"}


def test_wilcoxon_runs_seed_after_seed_and_stops_when_the_choice_is_worse(url: str) -> None:
    ledger = open_ledger(url, spec("wilcoxon", seeds=6))
    best = ledger.ask()
    for trial in best.trials:
        assert [each.seed for each in ledger.due(ledger.choice(0))] == [trial.seed]
        complete(ledger, start(ledger, trial), 50.0 + trial.seed)
    worse = ledger.ask()
    unrun: list[Trial] = []
    for trial in worse.trials[:4]:
        assert unrun == []
        unrun = complete(ledger, start(ledger, trial), 40.0 + 1.1 * trial.seed)
    # four of four seeds are lower: p = 1 / 16, the first below 0.1
    assert [(trial.seed, trial.state) for trial in unrun] == [(4, "PRUNED"), (5, "PRUNED")]
    assert unrun[0].message == "not run: pruned after 4 seeds, as worse than the best choice"
    better = ledger.ask()
    for trial in better.trials:
        assert complete(ledger, start(ledger, trial), 60.0 + trial.seed) == []
    assert told(url) == [(TrialState.COMPLETE, 52.5), (TrialState.PRUNED, 43.3), (TrialState.COMPLETE, 62.5)]


def test_under_wilcoxon_a_failed_seed_fails_the_choice_and_the_next_one_runs(url: str) -> None:
    ledger = open_ledger(url, spec("wilcoxon", seeds=5))
    choice = ledger.ask()
    ledger.update(replace(start(ledger, choice.trials[0]), state="FAILED", reason="crash"))
    assert [trial.seed for trial in ledger.due(ledger.choice(0))] == [1]
    for trial in choice.trials[1:]:
        complete(ledger, start(ledger, trial), 50.0)
    assert told(url) == [(TrialState.FAIL, None)]
    retry(ledger, 0)
    assert [trial.seed for trial in ledger.due(ledger.choice(0))] == [0]
    complete(ledger, start(ledger, ledger.choice(0).trials[0]), 50.0)
    assert told(url)[1] == (TrialState.COMPLETE, 50.0)
    assert optuna.load_study(study_name="sweep", storage=url).trials[1].intermediate_values == dict.fromkeys(
        range(5), 50.0
    )


def test_killed_between_the_decision_and_the_trials_end(url: str) -> None:
    ledger = open_ledger(url, spec("asha"))
    run_first(ledger, [50.0] * 9)
    choice = ledger.ask()
    running = start(ledger, choice.trials[0])
    why = train(ledger, running, [40.0])
    again = open_ledger(url, spec("asha"))
    assert again.pruned_running == [running]
    assert again.due(again.choice(choice.number)) == []
    assert again.choice(choice.number).pruned == why
    again.update(replace(running, state="PRUNED", message=why))
    assert again.pruned_running == []
    assert told(url)[1] == (TrialState.PRUNED, 40.0)


def test_killed_before_the_other_seeds_are_written_down(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(url, spec("asha", seeds=4))
    run_first(ledger, [50.0] * 9)
    choice = ledger.ask()
    running = start(ledger, choice.trials[0])
    why = train(ledger, running, [40.0])
    monkeypatch.setattr(Ledger, "_conclude", lambda *_: [])
    ledger.update(replace(running, state="PRUNED", message=why))
    monkeypatch.undo()
    assert told(url)[1][0] == TrialState.RUNNING
    again = open_ledger(url, spec("asha", seeds=4))
    assert [trial.state for trial in again.choice(choice.number).trials] == ["PRUNED"] * 4
    assert told(url)[1] == (TrialState.PRUNED, 40.0)


def test_killed_before_a_complete_seed_is_judged(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(url, spec("wilcoxon", seeds=5))
    for trial in ledger.ask().trials:
        complete(ledger, start(ledger, trial), 50.0 + trial.seed)
    worse = ledger.ask()
    for trial in worse.trials[:3]:
        complete(ledger, start(ledger, trial), 40.0 + 1.1 * trial.seed)
    monkeypatch.setattr(Ledger, "_conclude", lambda *_: [])
    complete(ledger, worse.trials[3], 43.3)
    monkeypatch.undo()
    again = open_ledger(url, spec("wilcoxon", seeds=5))
    assert again.choice(worse.number).trials[4].state == "PRUNED"
    assert told(url)[1] == (TrialState.PRUNED, 43.3)


def test_who_only_reads_a_ledger_writes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(url, spec("asha"))
    first = start(ledger, ledger.ask().trials[0])
    monkeypatch.setattr(Ledger, "_conclude", lambda *_: [])
    ledger.update(replace(first, state="PRUNED", message="pruned at epoch 1"))  # the driver is about to do the rest
    monkeypatch.undo()
    ledger._study.ask()  # and has just asked for another choice
    read = load_ledger(url, "sweep")
    assert [trial.state for trial in read.trials] == ["PRUNED", "CREATED", "CREATED", "CREATED"]
    assert [state for state, _ in told(url)] == [TrialState.RUNNING, TrialState.RUNNING]
