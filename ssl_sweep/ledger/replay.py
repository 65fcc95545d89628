"""A trial as its ledger had it, from the events of its journal: what the driver made of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ssl_sweep.knobs.objective import COSTS
from ssl_sweep.ledger import budgets
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.events import AttemptStarted, Ended, Event, MetricsReported, StageFinished
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.states import TrialState


@dataclass
class _Measured:
    """What a journal has measured so far; of each stage the newest results."""

    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    def results(self, objectives: Sequence[str]) -> dict[str, float]:
        """The results of a trial that is complete, as an attempt returns them."""
        staged = {f"{stage}/{name}": value for stage, found in self.stages.items() for name, value in found.items()}
        return staged | (self.costs if any(objective in COSTS for objective in objectives) else {})


def replay(record: TrialRecord, events: Iterable[Event], spec: SweepSpec) -> Trial:
    """The trial of a record after these events of its journal.

    How often it failed before a resume gave it new budgets is guessed from the budgets.
    """
    trial = Trial(record.trial_id, record.choice or 0, record.seed or 0, confirms=record.confirms)
    wanted, measured = {"pretrain", *record.config.get("evaluate", ())}, _Measured()
    for event in events:
        match event:
            case AttemptStarted(attempt=number):
                again = trial.reset() if trial.ended else trial
                trial = replace(again, state=TrialState.RUNNING, attempts=number or trial.attempts + 1)
            case StageFinished(stage=stage, results=results) if stage in wanted:
                measured.stages[stage] = dict(results)
            case MetricsReported(metrics=metrics):
                measured.costs |= {name: value for name, value in metrics.items() if name in COSTS}
            case Ended() if event.state != TrialState.INTERRUPTED:
                trial = _end(trial, event, measured, spec)
    return trial


def _end(trial: Trial, event: Ended, measured: _Measured, spec: SweepSpec) -> Trial:
    if event.state != TrialState.FAILED:
        results = measured.results(spec.search.metrics) if event.state == TrialState.COMPLETE else None
        return replace(trial, state=event.state, results=results, reason=event.reason, message=event.message)
    failed = budgets.count_failure(trial, Outcome(event.state, reason=event.reason, message=event.message))
    if failed.reason in budgets.HALTS or budgets.may_retry(failed, spec):
        return replace(failed, state=TrialState.CREATED)
    return budgets.mark_failed(failed, spec)


def reports(events: Iterable[Event], metric: str) -> dict[int, float]:
    """The values of a metric by epoch, each the first that was reported."""
    values: dict[int, float] = {}
    for event in events:
        if isinstance(event, MetricsReported) and metric in event.metrics:
            values.setdefault(event.step, event.metrics[metric])
    return values
