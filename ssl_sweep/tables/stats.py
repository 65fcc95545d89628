"""Statistics over a few seeds: 95 % intervals of a mean, paired tests, Holm's correction.

Uses `scipy.special`, not `scipy.stats`, whose import takes as long as a whole table should.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

LEVEL = 0.95
ALPHA = 0.05  # below which a p has a mark
RESAMPLES = 10_000
SAME = 1e-6  # differences that differ by less, relative to the values, are ties: results may have passed through fp32


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean's interval by Student's t over two or more independent values: mean ± t s / √n."""
    from scipy.special import stdtrit

    n = len(values)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(np.std(values, ddof=1)) / n**0.5
    mean = float(np.mean(values))
    return mean - half, mean + half


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean's percentile bootstrap interval, with the same resamples in every call."""
    means = _shares(len(values)) @ np.asarray(values)  # (RESAMPLES,)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_t(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t-test; None for fewer than two pairs, or where all differences are equal."""
    from scipy.special import stdtr

    differences, rounded = _differences(ours, theirs)
    if len(differences) < 2:
        return None
    if not np.ptp(rounded):
        return None if rounded[0] else 1.0
    t = differences.mean() / (differences.std(ddof=1) / len(differences) ** 0.5)
    return 2 * float(stdtr(len(differences) - 1, -abs(t)))


def wilcoxon(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Two-sided exact p of Wilcoxon's signed-rank test; None for fewer than two pairs.

    Zero differences are left out, and tied ones share their mean rank. The distribution is that of the actual ranks
    under equally likely signs, so that it is exact with ties too.
    """
    _, rounded = _differences(ours, theirs)
    if len(rounded) < 2:
        return None
    differences = rounded[rounded != 0]
    _, inverse, counts = np.unique(abs(differences), return_inverse=True, return_counts=True)
    ranks = (2 * np.cumsum(counts) - counts + 1)[inverse]  # twice the mean ranks: whole numbers
    chance = np.zeros(ranks.sum() + 1)  # of each sum of the positive ranks
    chance[0] = 1.0
    for rank in ranks:
        moved = np.concatenate([np.zeros(rank), chance[:-rank]])
        chance = (chance + moved) / 2
    smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    return min(1.0, 2 * float(chance[: smaller + 1].sum()))


def least_wilcoxon(pairs: int) -> float:
    """The smallest p that Wilcoxon's test can give for a number of pairs, two or more."""
    return float(2.0 ** (1 - pairs))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each p corrected for their number (Holm 1979): with 0.05 as limit, any false positive is as unlikely."""
    given = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(given):
        largest = max(largest, min(1.0, (len(given) - rank) * p))
        corrected[index] = largest
    return corrected


@cache
def _shares(n: int) -> Values:
    """The weights of n values in each resample's mean: (RESAMPLES, n)."""
    drawn = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=RESAMPLES)
    return drawn / n


def _differences(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Values, Values]:
    """The differences of the pairs, and the same rounded to multiples of the tolerance for ties."""
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    scale = SAME * max(map(abs, [*ours, *theirs]), default=0.0)
    return differences, np.round(differences / (scale or 1.0))
