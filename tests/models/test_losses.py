"""Shared losses against formulas written out row by row."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sweep.models.losses import add, cosine, feature_std, info_nce, nt_xent, unit


def rows(count: int, dim: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def on_sphere(x: Tensor) -> Tensor:
    return torch.stack([row / math.sqrt(dot(row, row)) for row in x])


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_is_equation_1_of_moco(temperature: float) -> None:
    query, key, queue = (on_sphere(rows(count, seed=count)) for count in (3, 3, 7))
    key = on_sphere(key + 2 * query)
    terms, negatives = [], []
    for q, k in zip(query, key, strict=True):
        exponents = [math.exp(dot(q, n) / temperature) for n in queue]
        own = math.exp(dot(q, k) / temperature)
        terms.append(-math.log(own / (own + sum(exponents))))
        negatives += [dot(q, n) for n in queue]
    loss, scalars = info_nce(query, key, queue, temperature)
    assert abs(loss - sum(terms) / 3) < 1e-10
    assert abs(scalars["positive_similarity"] - sum(map(dot, query, key)) / 3) < 1e-10
    assert abs(scalars["negative_similarity"] - sum(negatives) / 21) < 1e-10


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("count", [2, 5])
def test_nt_xent_is_equation_1_of_simclr(temperature: float, count: int) -> None:
    first, second = on_sphere(rows(count, seed=1)), on_sphere(rows(count, seed=2))
    z = [*first, *second]
    terms, positives, negatives = [], [], []
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        others = [k for k in range(2 * count) if k != i]
        total = sum(math.exp(dot(z[i], z[k]) / temperature) for k in others)
        terms.append(-math.log(math.exp(dot(z[i], z[j]) / temperature) / total))
        positives.append(dot(z[i], z[j]))
        negatives += [dot(z[i], z[k]) for k in others if k != j]
    loss, scalars = nt_xent(first, second, temperature)
    assert abs(loss - sum(terms) / len(terms)) < 1e-10
    assert abs(scalars["positive_similarity"] - sum(positives) / len(positives)) < 1e-10
    assert abs(scalars["negative_similarity"] - sum(negatives) / len(negatives)) < 1e-10


def test_nt_xent_moves_both_views() -> None:
    first, second = (on_sphere(rows(4, seed=seed)).requires_grad_() for seed in (1, 2))
    loss, _ = nt_xent(first, second, 0.2)
    loss.backward()
    assert first.grad.abs().sum() > 0
    assert second.grad.abs().sum() > 0


def test_one_image_alone_is_no_error() -> None:
    loss, scalars = nt_xent(on_sphere(rows(1)), on_sphere(rows(1, seed=1)), 0.2)
    assert loss == 0
    assert scalars["negative_similarity"].isfinite()


def test_cosine_and_unit() -> None:
    first, second = rows(4, seed=1), rows(4, seed=2)
    torch.testing.assert_close(unit(first), on_sphere(first), atol=1e-12, rtol=0)
    expected = [dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(cosine(first, second).tolist(), expected, atol=1e-12, rtol=0)


def test_losses_are_fp32_whatever_the_autocast() -> None:
    first, second = (rows(6, seed=seed).float() for seed in (1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            nt_xent(unit(first), unit(second), 0.1)[0],
            info_nce(unit(first), unit(second), unit(first), 0.1)[0],
            cosine(first.bfloat16(), second.bfloat16()),
        ]
    assert all(value.dtype == torch.float32 for value in found)
    torch.testing.assert_close(found[0], nt_xent(unit(first), unit(second), 0.1)[0])
    torch.testing.assert_close(found[1], info_nce(unit(first), unit(second), unit(first), 0.1)[0])


def test_the_spread_is_none_when_collapsed_and_one_on_the_sphere() -> None:
    spread = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert feature_std(spread) == pytest.approx(1, abs=0.01)
    assert feature_std(100 * spread) == pytest.approx(feature_std(spread).item())
    assert feature_std(spread[:1].expand(8, -1)) == pytest.approx(0, abs=1e-6)
    small = rows(5, 3)
    normed = F.normalize(small, dim=1).numpy()
    assert feature_std(small).item() == pytest.approx(normed.std(axis=0).mean() * math.sqrt(3), abs=1e-12)


def test_terms_are_added_and_their_scalars_averaged() -> None:
    terms = [(torch.tensor(value), {"a": torch.tensor(2 * value)}) for value in (1.0, 4.0)]
    loss, scalars = add(terms)
    assert loss == 5
    assert scalars == {"a": 5}
