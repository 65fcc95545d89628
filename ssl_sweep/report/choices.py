"""What a page shows of a sweep's search: the knobs that were searched, and the choices that were tried."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ssl_sweep.knobs.best import Scores


@dataclass(frozen=True)
class Knob:
    """A searched knob and the values that trials have had, in order; `sampled`: from a range without listed values."""

    path: str
    name: str
    values: tuple[Any, ...]
    numeric: bool
    log: bool
    sampled: bool


@dataclass(frozen=True)
class Choice:
    """One setting of the knobs, with its label and the objectives of its COMPLETE trials."""

    number: int
    label: str
    knobs: Mapping[str, Any]
    scores: Scores

    @property
    def objective(self) -> float | None:
        """The mean over the search's seeds; None without any."""
        return fmean(self.scores.searched) if self.scores.searched else None

    @property
    def num_seeds(self) -> int:
        return len(self.scores.searched)

    @property
    def confirmed(self) -> float | None:
        """The mean over fresh seeds; None without any."""
        return fmean(self.scores.fresh) if self.scores.fresh else None

    @property
    def num_fresh(self) -> int:
        return len(self.scores.fresh)
