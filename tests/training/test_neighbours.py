"""The vote of neighbours against scikit-learn's, in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from ssl_sweep.training import neighbours
from ssl_sweep.training.neighbours import classify, top1

CLASSES, DIM = 4, 5
KS = (1, 5, 20)


def labelled(seed: int, count: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, DIM, dtype=torch.float64, generator=rng)
    noisy = features + 0.5 * torch.randn(count, DIM, dtype=torch.float64, generator=rng)
    return features, 2 * (noisy[:, 0] > 0).long() + (noisy[:, 1] > 0)


def theirs(k: int, temperature: float) -> Any:
    """Predictions of scikit-learn for the queries."""
    (bank, labels), (queries, _) = labelled(0, 60), labelled(1, 80)
    neighbors: Any = KNeighborsClassifier  # scikit-learn has no types
    voters = neighbors(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
    return voters.fit(bank.numpy(), labels.numpy()).predict(queries.numpy())


def ours(ks: tuple[int, ...], temperature: float) -> Tensor:
    (bank, labels), (queries, _) = labelled(0, 60), labelled(1, 80)
    return classify(queries, bank, labels, CLASSES, ks=ks, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_every_k_is_that_of_scikit_learn_on_cosine(temperature: float) -> None:
    expected = np.stack([theirs(k, temperature) for k in KS])
    assert len(np.unique(expected, axis=0)) == len(KS)  # else one k could stand for another
    assert np.array_equal(ours(KS, temperature).numpy(), expected)


def test_a_low_temperature_does_not_overflow() -> None:
    (bank, labels), (queries, _) = (labelled(seed, count) for seed, count in ((0, 60), (1, 80)))
    predicted = classify(queries.float(), bank.float(), labels, CLASSES, ks=(20,), temperature=0.005)
    assert np.array_equal(predicted[0].numpy(), theirs(20, 0.005))  # exp(1 / 0.005) is beyond fp32


def test_more_neighbours_than_images_are_all_images() -> None:
    assert torch.equal(ours((60,), 0.3), ours((1000,), 0.3))


def test_queries_in_small_parts_are_classified_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ours(KS, 0.1)
    monkeypatch.setattr(neighbours, "MAX_COSINES", 7 * 60)
    assert torch.equal(ours(KS, 0.1), expected)
    monkeypatch.setattr(neighbours, "MAX_COSINES", 1)
    assert torch.equal(ours(KS, 0.1), expected)


def test_top1_is_in_percent() -> None:
    assert top1(torch.tensor([[0, 1, 2, 3], [0, 1, 0, 1]]), torch.tensor([0, 1, 2, 0])) == [75.0, 50.0]
