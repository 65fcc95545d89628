"""What a ledger holds: choices of the searched knobs, their trials by seed, and small notes beside them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir.states import ENDED, TrialState

if TYPE_CHECKING:
    import optuna

    from ssl_sweep.ledger.database import DatabaseStorage

LEASE = "lease"  # the note of who drives a sweep


class LedgerError(UserError, ValueError):
    """The ledger does not fit what was asked of it."""


class LeaseLost(LedgerError):  # noqa: N818 - says what happened
    """Another driver has taken this sweep over."""


@dataclass(frozen=True)
class Trial:
    """One choice with one seed, as the ledger knows it."""

    trial_id: str
    choice: int
    seed: int
    state: TrialState = TrialState.CREATED
    attempts: int = 0
    failures: int = 0  # attempts that crashed
    lost: int = 0  # attempts that lost their process, or hung
    results: Mapping[str, float] | None = None
    reason: str | None = None
    message: str | None = None
    confirms: bool = False  # it has a fresh seed, and the search learns nothing from it

    @classmethod
    def read(cls, noted: Mapping[str, Any]) -> "Trial":
        """A trial from what `asdict` has made of it, by this version or one before."""
        return cls(**{**noted, "state": TrialState(noted["state"])})

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def reset(self) -> "Trial":
        """It again, under its own id, with its budgets whole and its attempts counted on."""
        return Trial(self.trial_id, self.choice, self.seed, attempts=self.attempts, confirms=self.confirms)


@dataclass(frozen=True)
class Choice:
    """One setting of the searched knobs and its trials, in the order of the seeds."""

    number: int
    knobs: Mapping[str, Any]
    trials: tuple[Trial, ...]
    pruned: str | None = None  # why the pruner has had enough of it
    confirming: tuple[Trial, ...] = ()  # its trials with fresh seeds

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """Those of the search, and those that confirm what it found."""
        return (*self.trials, *self.confirming)

    def means(self, metrics: Sequence[str]) -> tuple[float, ...] | None:
        """The metrics' means over the search's seeds; None where one of them has no finite value."""
        found = [mean for metric in metrics if (mean := _mean(self.trials, metric)) is not None]
        return tuple(found) if len(found) == len(metrics) else None

    def confirmed(self, metric: str) -> float | None:
        """Its mean over the fresh seeds; None without any, or where one of them has no finite value."""
        return _mean(self.confirming, metric)

    @property
    def ended(self) -> bool:
        return all(trial.ended for trial in self.trials)

    @property
    def retriable(self) -> bool:
        """Whether it has ended and lacks a trial for another reason than a pruner's."""
        return self.ended and any(trial.state in (TrialState.FAILED, TrialState.STOPPED) for trial in self.trials)


class Notes:
    """Small values beside a sweep's choices, each written by itself: who drives it, what people ask of it."""

    def __init__(self, study: "optuna.Study", database: "DatabaseStorage") -> None:
        """database: the database that the study is in."""
        self._study, self._database = study, database

    def read(self) -> dict[str, Any]:
        """All of them, as they are now."""
        return self._study.user_attrs

    def write(self, name: str, value: Any) -> None:
        """Set one; None where there is nothing any more."""
        self._study.set_user_attr(name, value)

    def swap(self, name: str, old: Any, new: Any) -> bool:
        """Set one where it still is the old one, or None; says whether it was. Of two at once, one is told so."""
        return self._database.swap_note(self._study.study_name, name, old, new)


def _mean(trials: Sequence[Trial], metric: str) -> float | None:
    values = [(trial.results or {}).get(metric, math.nan) for trial in trials]
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else None
