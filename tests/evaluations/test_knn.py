"""The vote of neighbours against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ssl_sweep.evaluations.knn import knn_votes


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equal_to_scikit_learn_on_cosine(k: int) -> None:
    data, labels = load_digits(return_X_y=True)
    train, test = slice(0, 1200), slice(1200, None)
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    theirs.fit(data[train], labels[train])
    bank, queries = torch.tensor(data[train]), torch.tensor(data[test])
    votes = knn_votes(queries, bank, torch.tensor(labels[train]), 10, k=k, temperature=0.1)
    agreement = (votes.argmax(dim=1).numpy() == theirs.predict(data[test])).mean()
    assert agreement > 0.998  # fp32 against float64: a tie may fall either way


def test_more_neighbours_than_images_are_all_images() -> None:
    votes = knn_votes(torch.eye(2), torch.eye(2), torch.tensor([1, 0]), 2, k=50, temperature=1.0)
    expected = torch.tensor([[1.0, torch.e], [torch.e, 1.0]])
    torch.testing.assert_close(votes, expected)
