"""Who is told of a sweep's course: the progress display, the metrics, who notifies."""

from typing import Protocol

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.trialdir.events import MetricsReported


class Observer(Protocol):
    """Somebody who is told of every start, report and end of a trial."""

    def started(self, trial: Trial) -> None: ...
    def reported(self, trial: Trial, report: MetricsReported) -> None: ...
    def ended(self, trial: Trial) -> None: ...


class Observers(tuple[Observer, ...]):
    """Several that are told, one after another."""

    def started(self, trial: Trial) -> None:
        for each in self:
            each.started(trial)

    def reported(self, trial: Trial, report: MetricsReported) -> None:
        for each in self:
            each.reported(trial, report)

    def ended(self, trial: Trial) -> None:
        for each in self:
            each.ended(trial)
