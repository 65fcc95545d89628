"""Whatever happens to a sweep, and in whatever order, its ledger and the Optuna study say the same, and truly."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from ssl_sweep.ledger.entries import Choice, Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump

METRIC, WATCHED = "knn/top1_val", "pretrain/knn_top1_val"
EPOCHS, SEEDS, CHOICES, TOP, FRESH = 4, 5, 4, 2, (5, 6)
WRITES = (
    "create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_system_attr", "set_trial_state_values",
    "set_trial_intermediate_value", "set_study_user_attr",
)  # fmt: skip
EVENTS = (
    "start",
    "start",
    "report",
    "report",
    "report",
    "end",
    "end",
    "fail",
    "stop",
    "retry",
    "kill",
    "kill_soon",
    "rush",
)


class Killed(BaseException):
    """The driver died: before a write, which takes the rest of its transaction with it, or after it was done."""


def spec(name: str, pruner: str) -> SweepSpec:
    knobs = {"views.overlay_alpha": [0.0, 0.1], "evaluate.knn.k": [1, 5]}
    base = {"name": name, "data": {"source": "digits", "image_size": 8}, "pretrain": {"epochs": EPOCHS}}
    confirm = {"top": TOP, "seeds": len(FRESH)}
    search = {"space": knobs, "seeds": SEEDS, "pruner": pruner, "confirm": confirm}
    return from_dump(base | {"encoder": "resnet18", "method": "autoencoder", "evaluate": {"knn": {}}, "search": search})


class Driver:
    """What `LedgerScheduler` does with a ledger, one event at a time, and what has to be true after each."""

    def __init__(self, url: str, wanted: SweepSpec) -> None:
        self.url, self.spec = url, wanted
        self.epochs: Counter[str] = Counter()  # checkpoints: they outlive the driver
        self.ended: dict[str, str] = {}
        self.retries: Counter[int] = Counter()
        self.writes_left: int | None = None
        self.ledger = self.reopened()

    def reopened(self) -> Ledger:
        self.writes_left = None
        self.running: dict[str, Trial] = {}
        self.ledger = open_ledger(self.url, self.spec)
        storage: Any = self.ledger._study._storage
        for name in WRITES:
            setattr(storage, name, self.dying(getattr(storage, name)))
        for name in ("transact", "set_study_user_attr"):
            setattr(storage._database, name, self.dying_after(getattr(storage._database, name)))
        for trial in self.ledger.pruned_running:
            self.ledger.update(replace(trial, state="PRUNED", message="as decided"))
        return self.ledger

    def dying(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            if self.writes_left is not None:
                self.writes_left -= 1
                if self.writes_left < 0:
                    raise Killed
            return write(*args, **named)

        return wrapped

    def dying_after(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            done = write(*args, **named)
            self.dying(lambda: None)()
            return done

        return wrapped

    def does(self, event: str, which: int, value: float) -> None:
        try:
            getattr(self, event)(which, value)
        except Killed:
            self.reopened()
        self.check()

    def start(self, which: int, value: float) -> None:
        due = [trial for choice in self.ledger.choices for trial in self.ledger.due(choice)]
        due = [trial for trial in due if trial.trial_id not in self.running]
        if not due and (choice := self.ledger.ask()) is not None:
            due = self.ledger.due(choice)
        if not due:
            due = self.ledger.confirm()
        if due:
            trial = due[which % len(due)]
            trial = replace(trial, state="RUNNING", attempts=trial.attempts + 1)
            self.ledger.update(trial)
            self.running[trial.trial_id] = trial

    def picked(self, which: int) -> Trial | None:
        return list(self.running.values())[which % len(self.running)] if self.running else None

    def report(self, which: int, value: float) -> None:
        trial = self.picked(which)
        if trial is None or self.epochs[trial.trial_id] >= EPOCHS:
            return
        if trial.confirms:
            assert self.ledger.report(trial, {WATCHED: value}, EPOCHS) is None  # no pruner judges what it proposed
            return
        self.epochs[trial.trial_id] += 1
        if self.ledger.report(trial, {WATCHED: value}, self.epochs[trial.trial_id]) is not None:
            self.finish(trial, "PRUNED", value)

    def end(self, which: int, value: float) -> None:
        if (trial := self.picked(which)) is not None:
            self.finish(trial, "COMPLETE", value)

    def fail(self, which: int, value: float) -> None:
        if (trial := self.picked(which)) is not None:
            self.finish(trial, "FAILED", value)

    def stop(self, which: int, value: float) -> None:
        if (trial := self.picked(which)) is not None:
            self.finish(trial, "STOPPED", value)

    def finish(self, trial: Trial, state: str, value: float) -> None:
        del self.running[trial.trial_id]
        self.ledger.update(replace(trial, state=state, results={METRIC: value} if state == "COMPLETE" else None))

    def retry(self, which: int, value: float) -> None:
        lost = {
            choice.number: [each.trial_id for each in choice.all_trials if each.state in ("FAILED", "STOPPED")]
            for choice in self.ledger.choices
            if choice.ended
        }
        if retriable := [number for number, trials in lost.items() if trials]:
            choice = self.ledger.choice(retriable[which % len(retriable)])
            self.retries[choice.number] += 1
            self.ledger.retry(choice, lost[choice.number])

    def rush(self, which: int, value: float) -> None:
        """Run what is left of the search well, so that what follows finds it confirming."""
        for _ in range(2 * CHOICES * SEEDS):
            if not self.ledger.searched:
                self.start(which, value)
                self.end(which, value)

    def kill(self, which: int, value: float) -> None:
        self.reopened()

    def kill_soon(self, which: int, value: float) -> None:
        self.writes_left = which

    def drain(self) -> None:
        """Let everything that is left run well."""
        self.reopened()
        for _ in range(CHOICES * (SEEDS + len(FRESH))):
            self.start(0, 0.0)
            for epoch in range(EPOCHS):
                self.report(0, float(epoch))
            self.end(0, 50.0)
        assert len(self.ledger.choices) == CHOICES
        assert all(choice.ended for choice in self.ledger.choices)
        assert self.ledger.ask() is None
        assert self.ledger.confirm() == []
        assert all(trial.ended for trial in self.ledger.trials)
        assert len(self.ledger.trials) == self.ledger.total
        means = {choice.number: choice.means([METRIC]) for choice in self.ledger.choices}
        best = sorted((-mean[0], number) for number, mean in means.items() if mean is not None)[:TOP]
        for _, number in best:
            assert tuple(trial.seed for trial in self.ledger.choice(number).confirming) == FRESH
        self.check()
        again = open_ledger(self.url, self.spec)
        assert again.choices == self.ledger.choices

    def check(self) -> None:
        for trial in self.ledger.trials:
            before = self.ended.pop(trial.trial_id, trial.state)
            retried = before in ("FAILED", "STOPPED") and self.retries[trial.choice]
            assert before == trial.state or retried  # what has ended stays so
            if trial.ended:
                self.ended[trial.trial_id] = trial.state
        confirmed = [choice for choice in self.ledger.choices if choice.confirming]
        assert all(choice.ended and choice.means([METRIC]) is not None for choice in confirmed)
        assert all(tuple(trial.seed for trial in choice.confirming) == FRESH for choice in confirmed)
        expected = SEEDS * len(self.ledger.choices) + len(FRESH) * len(confirmed)
        assert len({trial.trial_id for trial in self.ledger.trials}) == len(self.ledger.trials) == expected
        assert self.ledger.total >= expected
        assert len({tuple(choice.knobs.values()) for choice in self.ledger.choices}) == len(self.ledger.choices)
        told: dict[int, list[FrozenTrial]] = {}
        asked = [state for state in TrialState if state != TrialState.WAITING]
        for frozen in self.ledger._study.get_trials(deepcopy=False, states=asked):
            told.setdefault(frozen.user_attrs.get("root", frozen.number), []).append(frozen)
        assert told.keys() == {choice.number for choice in self.ledger.choices}
        for choice in self.ledger.choices:
            self.check_choice(choice, told[choice.number])

    def check_choice(self, choice: Choice, told: list[FrozenTrial]) -> None:
        assert len(told) <= 1 + self.retries[choice.number]  # told once, and once more a retry
        assert all(frozen.state == TrialState.FAIL for frozen in told[:-1])
        assert told[-1].state.is_finished() == choice.ended
        states = {trial.state for trial in choice.trials}
        if choice.ended:
            expected = TrialState.FAIL if states & {"FAILED", "STOPPED"} else TrialState.PRUNED
            assert told[-1].state == (TrialState.COMPLETE if states == {"COMPLETE"} else expected)
        if states == {"COMPLETE"}:
            values = [trial.results[METRIC] for trial in choice.trials]
            assert told[-1].value == pytest.approx(sum(values) / SEEDS)
        at_once = [trial for trial in choice.trials if trial.state == "RUNNING"]
        if self.spec.search.prunes_by == "epoch" and choice.trials[0].state != "COMPLETE":
            assert set(at_once) <= {choice.trials[0]}
        if self.spec.search.prunes_by == "seed":
            assert len(at_once) <= 1
        if self.spec.search.prunes_by is None:
            assert "PRUNED" not in states


names = iter(range(10**9))
schedules = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.integers(0, 5), st.integers(0, 99).map(float)), min_size=20, max_size=60
)


@pytest.mark.parametrize("pruner", ["none", "asha", "median", "hyperband", "wilcoxon"])
def test_no_schedule_of_events_breaks_the_ledger(tmp_path: Path, pruner: str) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(schedules)
    def run(schedule: list[tuple[str, int, float]]) -> None:
        driver = Driver(url, spec(f"sweep-{next(names)}", pruner))
        for event, which, value in schedule:
            driver.does(event, which, value)
        driver.drain()

    run()
