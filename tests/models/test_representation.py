"""Label-free measures of features against their formulas, written out in numpy."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_sweep.models import representation
from ssl_sweep.models.representation import alignment, effective_rank, lidar, spectral_decay, uniformity

ROWS, DIM = 12, 5


def rows(seed: int, count: int = ROWS, dim: int = DIM) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def on_sphere(x: Tensor) -> Any:
    values = x.numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def entropy_rank(values: Any) -> float:
    p = values / values.sum() + 1e-7
    return math.exp(-sum(share * math.log(share) for share in p))


def powers(alpha: float, count: int, dim: int) -> Tensor:
    """Features whose covariance has the eigenvalues i^-alpha."""
    basis, _ = np.linalg.qr(rows(7, count, dim).numpy() - rows(7, count, dim).numpy().mean(axis=0))
    turn, _ = np.linalg.qr(rows(8, dim, dim).numpy())
    sigma = np.arange(1, dim + 1) ** (-alpha / 2) * math.sqrt(count - 1)
    return torch.from_numpy(basis * sigma @ turn)


def test_effective_rank_is_the_exponential_of_an_entropy() -> None:
    x = rows(0)
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(x.numpy().T @ x.numpy()), 0))
    assert effective_rank(x) == pytest.approx(entropy_rank(sigma), abs=1e-10)
    assert effective_rank(torch.eye(4, dtype=torch.float64)) == pytest.approx(4, abs=1e-4)
    assert effective_rank(x[:1].expand(6, -1)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(3, 3)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("count", [40, 4])
def test_spectral_decay_is_a_line_in_log_log(count: int) -> None:
    x = rows(0, count) + 3
    values = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1][: min(DIM, count - 1)]
    log_index, log_value = np.log(np.arange(1, len(values) + 1)), np.log(values)
    slope, start = np.polyfit(log_index, log_value, 1)
    alpha, r2 = spectral_decay(x)
    assert alpha == pytest.approx(-slope, abs=1e-9)
    left = ((log_value - slope * log_index - start) ** 2).sum()
    assert r2 == pytest.approx(1 - left / ((log_value - log_value.mean()) ** 2).sum(), abs=1e-9)
    slope, _ = np.polyfit(log_index[:3], log_value[:3], 1)
    assert spectral_decay(x, 3)[0] == pytest.approx(-slope, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_spectral_decay_finds_the_law(alpha: float) -> None:
    assert spectral_decay(powers(alpha, 300, 50)) == (pytest.approx(alpha, abs=1e-9), pytest.approx(1, abs=1e-9))
    assert spectral_decay(powers(alpha, 300, 50).float() + 5)[0] == pytest.approx(alpha, abs=1e-4)


def test_spectral_decay_leaves_out_what_is_rounding() -> None:
    x = rows(0, 400, 3).float() @ rows(1, 3, 64).float() + 10  # three directions, 61 of rounding
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1][:3]
    slope, _ = np.polyfit(np.log([1, 2, 3]), np.log(values), 1)
    assert spectral_decay(x)[0] == pytest.approx(-slope, abs=1e-4)


def test_spectral_decay_of_collapsed_features_is_no_number() -> None:
    for collapsed in (torch.full((9, 4), 0.3), rows(0)[:, :1] @ rows(1)[:1], torch.zeros(5, 3)):
        assert all(math.isnan(value) for value in spectral_decay(collapsed))


def test_lidar_is_the_rank_of_the_lda_matrix() -> None:
    views = torch.stack([rows(0, 40) + 0.3 * rows(seed, 40) * torch.arange(1, DIM + 1) for seed in (1, 2, 3)])
    count, images, dim = views.shape
    e = views.numpy()
    means = e.mean(axis=0)
    within, between = np.zeros((dim, dim)), np.zeros((dim, dim))
    for image in range(images):
        apart = means[image] - means.mean(axis=0)
        between += np.outer(apart, apart) / (images - 1)
        for view in range(count):
            apart = e[view, image] - means[image]
            within += np.outer(apart, apart) / (images * (count - 1))
    within += 1e-4 * np.trace(within + between) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    expected = entropy_rank(np.linalg.eigvalsh(root @ between @ root))
    assert lidar(views) == pytest.approx(expected, abs=1e-9)
    assert lidar(1e-3 * views) == pytest.approx(expected, abs=1e-9)
    assert lidar(views.float() + 1) == pytest.approx(expected, abs=1e-3)


def test_lidar_counts_what_tells_images_apart_and_not_what_views_change() -> None:
    images = torch.zeros(500, 16, dtype=torch.float64)
    images[:, :4] = rows(0, 500, 4)
    noise = torch.stack([torch.nn.functional.pad(rows(seed, 500, 12), (4, 0)) for seed in range(1, 11)])
    few = images + noise + 0.01 * torch.stack([rows(seed, 500, 16) for seed in range(11, 21)])
    assert lidar(few) == pytest.approx(4, abs=0.1)
    assert effective_rank(few[0]) > 15  # noise has rank too
    assert lidar(rows(0, 500, 16) + 0.01 * few) > 15


def test_lidar_of_collapsed_features_is_one() -> None:
    assert lidar(torch.full((3, 8, 4), 0.3)) == pytest.approx(1)
    assert lidar(rows(0)[:, :1].expand(2, -1, DIM)) == pytest.approx(1, abs=1e-4)


def test_alignment_is_the_mean_squared_distance_on_the_sphere() -> None:
    views = torch.stack([rows(1), rows(2), rows(3)])
    unit = [on_sphere(view) for view in views]
    expected = [((x - y) ** 2).sum(axis=1).mean() for x, y in combinations(unit, 2)]
    assert alignment(views[:2]) == pytest.approx(expected[0], abs=1e-10)
    assert alignment(views) == pytest.approx(np.mean(expected), abs=1e-10)
    assert alignment(torch.stack([views[0], 3 * views[0]])) == pytest.approx(0, abs=1e-10)
    assert alignment(torch.stack([views[0], -views[0]])) == pytest.approx(4, abs=1e-10)


@pytest.mark.parametrize("part", [1024, 5])
def test_uniformity_is_the_log_of_the_mean_potential_of_all_pairs(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representation, "PAIR_BATCH", part)
    unit = on_sphere(rows(3))
    pairs = [(i, j) for i in range(ROWS) for j in range(i)]
    potential = [math.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i, j in pairs]
    assert uniformity(rows(3)) == pytest.approx(math.log(sum(potential) / len(pairs)), abs=1e-10)
    assert uniformity(torch.eye(4, dtype=torch.float64)) == pytest.approx(-4, abs=1e-10)


def test_uniformity_of_one_point_is_zero() -> None:
    assert uniformity(rows(0)[:1].expand(6, -1)) == pytest.approx(0, abs=1e-10)
    assert uniformity(torch.zeros(6, 3)) == 0  # dead features are at no right angle
