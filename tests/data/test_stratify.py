"""Nested subsets: shares, one of each class, the smaller inside the larger."""

from collections import Counter
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_sweep.data.stratify import nested_subset


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    fractions=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=5).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_of_each_class_its_share_and_the_smaller_in_the_larger(
    counts: list[int], fractions: list[float], seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    subsets = [nested_subset(labels, fraction, seed) for fraction in fractions]
    for smaller, larger in pairwise(subsets):
        assert set(smaller.tolist()) <= set(larger.tolist())
    present = sum(count > 0 for count in counts)
    for fraction, rows in zip(fractions, subsets, strict=True):
        assert torch.equal(rows, rows.unique())  # ascending, none twice
        assert len(rows) == max(present, round(len(labels) * fraction))
        taken = Counter(labels[rows].tolist())
        assert all((taken[label] >= 1) == (count > 0) for label, count in enumerate(counts))
        # one of each class at the least; beyond it, none is more than an image ahead of another
        ahead = max(((taken[label] - 1) / count for label, count in enumerate(counts) if taken[label] > 1), default=0)
        behind = min((taken[label] + 1) / count for label, count in enumerate(counts) if count)
        assert ahead <= behind


def test_equal_classes_give_equally_many() -> None:
    labels = torch.arange(10).repeat(4500)  # CIFAR-10 less its validation images
    for percent in (1, 2, 5, 10, 20, 50, 100):
        taken = torch.bincount(labels[nested_subset(labels, percent / 100, 3)])
        assert taken.tolist() == [45 * percent] * 10


def test_the_seed_decides_which_images() -> None:
    labels = torch.arange(4).repeat(50)
    first, again, other = (set(nested_subset(labels, 0.2, seed).tolist()) for seed in (0, 0, 1))
    assert first == again
    assert len(first) == len(other) == 40
    assert len(first & other) < 20  # 8 by chance
