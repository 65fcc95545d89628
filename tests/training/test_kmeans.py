"""k-means on clusters that are known beforehand."""

import torch

from ssl_sweep.training import kmeans as module
from ssl_sweep.training.kmeans import assign, kmeans


def blobs(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around centres that are far apart, in a random order, and the centre of each."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    x = 10 * torch.eye(len(counts))[truth] + 0.1 * torch.randn(len(truth), len(counts), generator=rng)
    order = torch.randperm(len(truth), generator=rng)
    return x[order], truth[order]


def same_parts(one: torch.Tensor, other: torch.Tensor) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(one.unique()) == len(other.unique())


def test_far_clusters_are_found_whatever_the_seed() -> None:
    x, truth = blobs([30, 5, 60, 20])
    for seed in range(5):
        centres, nearest = kmeans(x, 4, torch.Generator().manual_seed(seed))
        assert same_parts(nearest, truth)
        means = torch.stack([x[nearest == cluster].mean(0) for cluster in range(4)])
        torch.testing.assert_close(centres, means)


def test_the_same_seed_gives_the_same_clusters_and_pieces_change_nothing(monkeypatch) -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(3))
    first, again = (kmeans(x, 9, torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    monkeypatch.setattr(module, "ROWS", 64)
    torch.testing.assert_close(kmeans(x, 9, torch.Generator().manual_seed(1))[0], first[0])


def test_no_more_clusters_than_points_and_equal_points_are_one() -> None:
    _, nearest = kmeans(torch.eye(3), 8, torch.Generator().manual_seed(0))
    assert sorted(nearest.tolist()) == [0, 1, 2]
    _, nearest = kmeans(torch.ones(4, 2), 3, torch.Generator().manual_seed(0))
    assert len(nearest.unique()) == 1


def test_distances_are_squared_euclidean() -> None:
    x, centres = torch.randn(7, 3), torch.randn(4, 3)
    distances, nearest = assign(x, centres)
    expected = torch.cdist(x, centres).square().min(1)
    torch.testing.assert_close(distances, expected.values)
    assert torch.equal(nearest, expected.indices)
