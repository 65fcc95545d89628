"""Coresets on made features whose answer is known, or against the same rule by brute force."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_sweep.data.subset import Subset, subset_of
from ssl_sweep.models.losses import unit
from ssl_sweep.training.coreset import choose, most_similar, nearest_before, prototypes, sas, shares

NONE = torch.full((0,), -1)


def chosen(features: Tensor, seed: int = 0, labels: Tensor = NONE, **settings: Any) -> list[int]:
    return choose(Subset(origin="earlier", **settings), len(features), features, labels, seed).tolist()


def angles(*degrees: float) -> Tensor:
    """Unit vectors in the plane, made longer: only their direction counts."""
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return (3 * torch.stack([radians.cos(), radians.sin()], 1)).float()


def test_of_two_duplicates_one_stays() -> None:
    features = angles(0, 40, 80, 80, 120)
    assert len(kept := chosen(features, method="semdedup", threshold=0.99, clusters=1)) == 4
    assert set(kept) in ({0, 1, 2, 4}, {0, 1, 3, 4})
    assert chosen(features, method="semdedup", threshold=0.7, clusters=1) == [0, 4]  # as 40 degrees are cosine 0.77
    assert len(chosen(features, method="semdedup", fraction=0.8, clusters=1)) == 4


def test_duplicates_in_different_clusters_both_stay() -> None:
    z = unit(angles(0, 1, 2, 90, 91))
    apart = nearest_before(z, torch.tensor([0, 1, 0, 1, 1]))
    assert (apart == -2).sum() == 2  # the first of each cluster
    assert apart[[0, 2]].max() == pytest.approx(math.cos(math.radians(2)))


def test_cosines_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    z = unit(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    whole = nearest_before(z, torch.arange(50) % 3)
    monkeypatch.setattr("ssl_sweep.training.coreset.MAX_COSINES", 40)
    torch.testing.assert_close(nearest_before(z, torch.arange(50) % 3), whole)


def test_easy_prototypes_are_near_their_centre_and_hard_ones_far() -> None:
    features = angles(-10, -1, 0, 1, 10, 170, 179, 180, 181, 190)  # two clusters
    easy = chosen(features, method="prototypes", fraction=0.6, clusters=2, prefer="easy")
    hard = chosen(features, method="prototypes", fraction=0.4, clusters=2, prefer="hard")
    assert easy == [1, 2, 3, 6, 7, 8]
    assert hard == [0, 4, 5, 9]
    ranks = prototypes(unit(features), torch.tensor([0] * 5 + [1] * 5), hard=False)
    assert ranks.argmin().item() in (2, 7)


def value(z: Tensor, kept: list[int]) -> float:
    """The sum of cosines between kept rows and the others: what SAS maximises."""
    others = [row for row in range(len(z)) if row not in kept]
    return float((z[kept] @ z[others].T).sum())


@pytest.mark.parametrize("seed", range(5))
def test_sas_is_the_greedy_answer(seed: int) -> None:
    z = unit(torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))).double()
    kept: list[int] = []
    for _ in range(5):
        rest = [row for row in range(len(z)) if row not in kept]
        kept.append(max(rest, key=lambda row: value(z, [*kept, row])))
    assert most_similar(z, 5).tolist() == kept
    best = max(value(z, list(each)) for each in combinations(range(12), 1))
    assert value(z, kept[:1]) == pytest.approx(best)


def test_sas_keeps_each_classs_share() -> None:
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 20 + [1] * 10)
    rows = chosen(features, labels=labels, method="sas", classes="labels", fraction=0.3)
    assert (len(rows), sum(row < 20 for row in rows)) == (9, 6)
    by_hand = torch.cat([most_similar(unit(features[:20]), 6), 20 + most_similar(unit(features[20:]), 3)])
    assert rows == by_hand.sort().values.tolist()
    assert len(sas(unit(features), torch.zeros(30).long(), 30)) == 30


def test_shares_are_the_whole_and_fit_each_class() -> None:
    counts = torch.tensor([1, 1, 1, 7, 0])
    for total in range(1, 11):
        divided = shares(counts, total)
        assert divided.sum() == total
        assert bool((divided <= counts).all())
    assert shares(torch.tensor([50, 30, 20]), 10).tolist() == [5, 3, 2]


@pytest.mark.parametrize("method", ["random", "prototypes", "semdedup", "sas"])
def test_the_choice_is_determinate_and_of_the_size(method: str) -> None:
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    subset = Subset(method=method, fraction=0.25, clusters=5, origin="earlier")  # type: ignore[arg-type]
    known = features if subset.needs_features else None
    first, again, other = (choose(subset, 100, known, NONE, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first) == len(first.unique()) == 25
    assert torch.equal(first, first.sort().values)


def test_a_smaller_random_part_is_in_the_larger() -> None:
    small, large = (
        choose(Subset(method="random", fraction=share), 100, None, NONE, 4).tolist() for share in (0.1, 0.5)
    )
    assert set(small) < set(large)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "random"}, "random needs a fraction; write"),
        ({"method": "semdedup", "from": "x"}, "needs a fraction or a threshold"),
        ({"method": "semdedup", "from": "x", "fraction": 0.2, "threshold": 0.9}, "both given; leave one out"),
        ({"method": "sas", "from": "x", "fraction": 0.2, "threshold": 0.9}, "threshold 0.9 is of semdedup"),
        ({"method": "prototypes", "fraction": 0.2}, "prototypes needs features; write `from: SWEEP`"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        subset_of({"subset": settings})


def test_the_whole_is_no_subset() -> None:
    assert subset_of({"subset": {"method": "prototypes", "fraction": 1.0}}) is None
    assert subset_of({"subset": None}) is None
    assert subset_of({}) is None
