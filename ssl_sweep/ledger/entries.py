"""The entries of a ledger: choices of the searched knobs, their trials by seed, and notes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir.states import ENDED, TrialState

if TYPE_CHECKING:
    import optuna

    from ssl_sweep.ledger.database import DatabaseStorage

LEASE = "lease"  # the name of the note that says who drives the sweep
DATA = "data"  # the name of the note with the identity of the images, see `DataNote`
PINS = "pins"  # the name of the note with the identity of what the spec only names, see `knobs.pins`


class LedgerError(UserError, ValueError):
    """The ledger does not fit the request."""


class LeaseLost(LedgerError):  # noqa: N818 - says what happened
    """Another driver has taken this sweep over."""


@dataclass(frozen=True)
class Trial:
    """One choice with one seed, as the ledger stores it."""

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
    confirms: bool = False  # its seed is fresh: the search does not learn from it

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Trial":
        """Restore a trial from its `asdict`, also of an earlier version."""
        return cls(**{**stored, "state": TrialState(stored["state"])})

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def reset(self) -> "Trial":
        """Return the trial as if it had not run, except that its id and its number of attempts stay."""
        return Trial(self.trial_id, self.choice, self.seed, attempts=self.attempts, confirms=self.confirms)


@dataclass(frozen=True)
class DataNote:
    """What the sweep knows of its data."""

    identities: Mapping[str, str] = field(default_factory=dict)  # of each source that it uses, see `knobs.pins`
    # uses that are in no key of a stage, because the sweep began before data had an identity
    unkeyed: Sequence[str] = ()
    restarting: bool = False  # the ledger has forgotten all results, and MLflow may still have them

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "DataNote":
        """Restore it from a ledger's notes."""
        return cls(**stored.get(DATA) or {})


@dataclass(frozen=True)
class Choice:
    """One setting of the searched knobs, with its trials in the order of the seeds."""

    number: int
    knobs: Mapping[str, Any]
    trials: tuple[Trial, ...]
    pruned: str | None = None  # why the pruner ended it
    confirming: tuple[Trial, ...] = ()  # the trials with fresh seeds
    settings: Mapping[str, Any] = field(default_factory=dict)  # those of `knobs` that a resume has set: not searched
    instead_of: int | None = None  # the failed choice that runs again with these settings
    # knobs that an earlier version drew beside a step of their range, 0.30000000000000004, as its trials run with them
    misrounded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_with(self) -> dict[str, Any]:
        """The knobs in the configs of its trials: stage keys depend on every digit."""
        return {**self.knobs, **self.misrounded}

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """The trials of the search and the confirming ones."""
        return (*self.trials, *self.confirming)

    def means(self, metrics: Sequence[str]) -> tuple[float, ...] | None:
        """The metrics' means over the search's seeds; None if a seed has no finite value."""
        means = [mean for metric in metrics if (mean := _mean(self.trials, metric)) is not None]
        return tuple(means) if len(means) == len(metrics) else None

    def confirmed(self, metric: str) -> float | None:
        """The metric's mean over the fresh seeds; None without any, or if one has no finite value."""
        return _mean(self.confirming, metric)

    @property
    def ended(self) -> bool:
        return all(trial.ended for trial in self.trials)

    @property
    def retriable(self) -> bool:
        """Whether it has ended, and a trial is missing for another reason than a pruner."""
        return self.ended and any(trial.state in (TrialState.FAILED, TrialState.STOPPED) for trial in self.trials)


class Notes:
    """Named JSON values of a sweep, each written by itself: its driver's lease, requests to stop, its spec."""

    def __init__(self, study: "optuna.Study", database: "DatabaseStorage") -> None:
        """database: where the study is."""
        self._study, self.study_name, self.database = study, study.study_name, database

    def read(self) -> dict[str, Any]:
        """Read all of them."""
        return self._study.user_attrs

    def write(self, name: str, value: Any) -> None:
        """Set one; None removes it."""
        self._study.set_user_attr(name, value)

    def swap(self, name: str, old: Any, new: Any) -> bool:
        """Set one if it still is `old` (None: not set); returns whether it was. Of two callers, one succeeds."""
        return self.database.swap_note(self.study_name, name, old, new)


def _mean(trials: Sequence[Trial], metric: str) -> float | None:
    values = [(trial.results or {}).get(metric, math.nan) for trial in trials]
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else None
