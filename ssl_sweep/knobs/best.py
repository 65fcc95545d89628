"""The rule of the best choice. Tables, pages, the ledger, the board and what is kept of a sweep all use this one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

K = TypeVar("K")


@dataclass(frozen=True)
class Scores:
    """The finite values of an objective that a choice's complete trials have, one a seed.

    Args:
        searched: by the search's seeds.
        fresh: by the seeds that confirm it.
        missing: how many of the search's seeds have no value.
        missing_fresh: how many of the fresh seeds have none.
    """

    searched: Sequence[float] = ()
    fresh: Sequence[float] = ()
    missing: int = 0
    missing_fresh: int = 0

    @property
    def value(self) -> float | None:
        """The mean that counts: over the fresh seeds where there are any, else over the search's; None without."""
        values = self.fresh or self.searched
        return fmean(values) if values else None

    def rank(self, sign: int) -> tuple[tuple[float, ...], ...]:
        """Higher is better. Seeds come before means: the mean over few seeds may be luck.

        sign: 1 where a higher value is better, else -1; see `Objective.sign`.
        """
        parts = ((self.fresh, self.missing_fresh), (self.searched, self.missing))
        return tuple((-missing, sign * fmean(values)) if values else (-math.inf,) for values, missing in parts)


def best_first(choices: Mapping[K, Scores], sign: int) -> list[K]:
    """The choices with a value, best first; of equal ones, the earlier first.

    Confirmed choices come before the others and are ordered by their fresh seeds. A choice that lacks fewer seeds comes
    first, then the one with the better mean.
    """
    scored = [choice for choice, scores in choices.items() if scores.searched or scores.fresh]
    return sorted(scored, key=lambda choice: choices[choice].rank(sign), reverse=True)
