"""How often a trial is tried again, by what ended its attempt, and how soon."""

from dataclasses import replace

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.states import TrialState

NO_RETRY = ("oom", "diverged", "collapsed", "data")  # the same settings run into these again
HALTS = ("disk",)  # every other trial runs into these too, until a person has done something
LOST = ("lost", "hung")  # not the trial's own doing: counted apart from its crashes
LONGEST_WAIT_S = 60.0


def charged(trial: Trial, outcome: Outcome) -> Trial:
    """The trial with a failed attempt counted."""
    failed = replace(trial, reason=outcome.reason, message=outcome.message)
    if outcome.reason in HALTS:
        return failed
    if outcome.reason in LOST:
        return replace(failed, lost=trial.lost + 1)
    return replace(failed, failures=trial.failures + 1)


def is_left(trial: Trial, spec: SweepSpec) -> bool:
    """Whether a trial whose attempt failed is to be tried again."""
    if trial.reason in LOST:
        return trial.lost <= spec.lost_retries
    return trial.reason not in NO_RETRY and trial.failures <= spec.retries


def wait_s(trial: Trial) -> float:
    """Seconds to leave a failed trial alone: 1, 2, 4, ..., 60 after a crash, none when it lost its process."""
    return 0.0 if trial.reason in LOST else min(2.0 ** (trial.failures - 1), LONGEST_WAIT_S)


def given_up(trial: Trial, spec: SweepSpec) -> Trial:
    """The failed trial; where a budget is what ended it, the message names that."""
    if trial.reason in NO_RETRY:
        return replace(trial, state=TrialState.FAILED)
    count, budget = (trial.lost, "lost_retries") if trial.reason in LOST else (trial.failures, "retries")
    times = "once" if count == 1 else f"{count} times"
    message = f"{trial.message} ({times}; {budget}: {getattr(spec, budget)})"
    return replace(trial, state=TrialState.FAILED, message=message)
