"""Who is told of a sweep's course: the progress display, the metrics, who notifies."""

from collections.abc import Mapping
from typing import Protocol

from ssl_sweep.ledger.entries import Trial


class Observer(Protocol):
    """Somebody who is told of every start, report and end of a trial."""

    def started(self, trial: Trial) -> None: ...
    def reported(self, trial: Trial, metrics: Mapping[str, float], step: int) -> None: ...
    def ended(self, trial: Trial) -> None: ...


class Observers(tuple[Observer, ...]):
    """Several that are told, one after another."""

    def started(self, trial: Trial) -> None:
        for each in self:
            each.started(trial)

    def reported(self, trial: Trial, metrics: Mapping[str, float], step: int) -> None:
        for each in self:
            each.reported(trial, metrics, step)

    def ended(self, trial: Trial) -> None:
        for each in self:
            each.ended(trial)
