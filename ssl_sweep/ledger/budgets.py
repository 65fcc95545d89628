"""Decides whether and when a failed trial is retried, by the reason that ended its attempt."""

from dataclasses import replace

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.states import TrialState

NO_RETRY = ("oom", "diverged", "collapsed", "data", "plugin", "import")  # the same settings would fail again
HALTS = ("disk", "code")  # every trial fails until a person intervenes
LOST = ("lost", "hung")  # not the trial's own fault: counted apart from its crashes
LONGEST_WAIT_S = 60.0


def count_failure(trial: Trial, outcome: Outcome) -> Trial:
    """Return the trial with its failed attempt counted."""
    failed = replace(trial, reason=outcome.reason, message=outcome.message)
    if outcome.reason in HALTS:
        return failed
    if outcome.reason in LOST:
        return replace(failed, lost=trial.lost + 1)
    return replace(failed, failures=trial.failures + 1)


def may_retry(trial: Trial, spec: SweepSpec) -> bool:
    """Whether a trial whose attempt failed has retries left."""
    if trial.reason in LOST:
        return trial.lost <= spec.lost_retries
    return trial.reason not in NO_RETRY and trial.failures <= spec.retries


def wait_s(trial: Trial) -> float:
    """Seconds to wait before a retry: 1, 2, 4, ..., 60 after a crash, none after a lost process."""
    return 0.0 if trial.reason in LOST else min(2.0 ** (trial.failures - 1), LONGEST_WAIT_S)


def mark_failed(trial: Trial, spec: SweepSpec) -> Trial:
    """Return the trial as FAILED; if its retries are used up, the message says so."""
    if trial.reason in NO_RETRY:
        return replace(trial, state=TrialState.FAILED)
    count, budget = (trial.lost, "lost_retries") if trial.reason in LOST else (trial.failures, "retries")
    times = "once" if count == 1 else f"{count} times"
    message = f"{trial.message} ({times}; {budget}: {getattr(spec, budget)})"
    return replace(trial, state=TrialState.FAILED, message=message)
