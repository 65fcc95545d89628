import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_sweep.tables.stats import bootstrap_interval, holm, least_wilcoxon, paired_t, t_interval, wilcoxon

SCORES = st.floats(-100, 100).map(lambda value: round(value, 2))
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=8)


def samples(n: int, seed: int) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    return rng.normal(50, 3, n).tolist(), rng.normal(48, 3, n).tolist()


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_the_t_interval_is_scipys(n: int) -> None:
    values, _ = samples(n, seed=n)
    wanted = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((wanted.low, wanted.high))


def test_the_t_interval_of_three_by_hand() -> None:
    # mean 54, s = 2, t(2, 0.975) = 4.302653: 54 ± 4.302653 · 2 / √3
    assert t_interval([52.0, 54.0, 56.0]) == pytest.approx((49.031725, 58.968275), abs=1e-5)


def test_the_bootstrap_interval_is_scipys_and_always_the_same() -> None:
    values, _ = samples(12, seed=3)
    wanted = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=5)
    assert bootstrap_interval(values) == pytest.approx(wanted.confidence_interval, abs=0.1)
    assert bootstrap_interval(values) == bootstrap_interval(list(values))


def test_the_bootstrap_of_three_ends_at_its_extremes() -> None:
    # a mean of three resampled values is the smallest one in 1 of 27 cases, which is more than 2.5 %
    assert bootstrap_interval([1.0, 2.0, 6.0]) == pytest.approx((1.0, 6.0))


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_the_paired_t_test_is_scipys(n: int) -> None:
    ours, theirs = samples(n, seed=n)
    assert paired_t(ours, theirs) == pytest.approx(scipy.stats.ttest_rel(ours, theirs).pvalue)


def test_the_same_difference_for_each_seed_is_no_t_test() -> None:
    assert paired_t([54.3, 54.5, 54.1], [54.1, 54.3, 53.9]) is None  # 0.2 but for the last bits
    assert paired_t([54.3, 54.5], [54.3, 54.5]) == 1.0


@pytest.mark.parametrize("n", [2, 5, 6, 13, 40])
def test_wilcoxon_is_scipys_where_there_are_no_ties(n: int) -> None:
    ours, theirs = samples(n, seed=n)
    wanted = scipy.stats.wilcoxon(ours, theirs, method="exact").pvalue
    assert wilcoxon(ours, theirs) == pytest.approx(wanted)


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9))
def test_wilcoxon_with_ties_is_the_share_of_signs_that_are_as_extreme(steps: list[int]) -> None:
    nonzero = [abs(step) for step in steps if step]
    ranks = scipy.stats.rankdata(nonzero) if nonzero else []

    def distance(signs: tuple[int, ...]) -> float:
        return abs(float(sum(sign * rank for sign, rank in zip(signs, ranks, strict=True))))

    seen = distance(tuple(1 if step > 0 else -1 for step in steps if step))
    drawn = [distance(signs) >= seen for signs in itertools.product((-1, 1), repeat=len(nonzero))]
    theirs = [50.1 + 0.3 * index for index in range(len(steps))]
    ours = [base + 0.1 * step for base, step in zip(theirs, steps, strict=True)]  # ties but for the last bits
    assert wilcoxon(ours, theirs) == pytest.approx(sum(drawn) / len(drawn))


@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_the_least_that_wilcoxon_can_give(n: int) -> None:
    assert wilcoxon([1.0 + index for index in range(n)], [0.0] * n) == pytest.approx(least_wilcoxon(n))
    assert (least_wilcoxon(n) < 0.05) == (n >= 6)


@pytest.mark.parametrize("test", [paired_t, wilcoxon])
def test_one_pair_is_no_test(test: object) -> None:
    assert test([1.0], [2.0]) is None  # type: ignore[operator]
    assert test([], []) is None  # type: ignore[operator]


@settings(deadline=None)
@given(PAIRS, st.sampled_from([paired_t, wilcoxon]))
def test_p_is_a_chance_and_two_sided(pairs: list[tuple[float, float]], test: object) -> None:
    ours, theirs = zip(*pairs, strict=True)
    p = test(ours, theirs)  # type: ignore[operator]
    assert p is None or 0 <= p <= 1
    assert p == test(theirs, ours)  # type: ignore[operator]


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.04, times 4 3 2 1: 0.04 0.06 0.06 0.04, and none below one before it
    assert holm([0.04, None, 0.01, 0.03, 0.02]) == pytest.approx([0.06, None, 0.04, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    corrected = [p for p in holm(p_values) if p is not None]
    for p, after in zip(p_values, corrected, strict=True):
        assert p <= after <= min(1.0, len(p_values) * p) or math.isclose(after, min(1.0, len(p_values) * p))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)
    assert corrected[order[0]] == pytest.approx(min(1.0, len(p_values) * p_values[order[0]]))
