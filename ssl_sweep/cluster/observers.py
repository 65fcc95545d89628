"""Observers of a running sweep: the progress display, the metrics, the webhook's notifier."""

from typing import Protocol

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.trialdir.events import MetricsReported


class Observer(Protocol):
    """Receives every start, report and end of a trial."""

    def started(self, trial: Trial) -> None: ...
    def reported(self, trial: Trial, report: MetricsReported) -> None: ...
    def ended(self, trial: Trial) -> None: ...


class Observers(tuple[Observer, ...]):
    """Several observers as one."""

    def started(self, trial: Trial) -> None:
        for observer in self:
            observer.started(trial)

    def reported(self, trial: Trial, report: MetricsReported) -> None:
        for observer in self:
            observer.reported(trial, report)

    def ended(self, trial: Trial) -> None:
        for observer in self:
            observer.ended(trial)
