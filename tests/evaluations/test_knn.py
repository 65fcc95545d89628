"""The k-NN evaluation on the pixels of real digits, against scikit-learn's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.evaluations.knn import evaluate
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.training.features import extract
from ssl_sweep.training.loop import Stage

KS = (200, 1, 40)


@pytest.fixture
def splits(cache: Path) -> Splits:
    return load_splits(Data(source="digits", image_size=8), root=Path(), cache=cache)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, lambda metrics, step: None, 3, torch.device("cpu"))


def scores(splits: Splits, stage: Stage, ks: Sequence[int]) -> dict[str, float]:
    """Of scikit-learn, for every k."""
    (bank, labels), val, test = (
        (features.double().numpy(), truth.numpy())
        for features, truth in (
            extract(nn.Flatten(), pack, 8, stage) for pack in (splits.train, splits.val, splits.test)
        )
    )
    found = {}
    for k in ks:
        neighbors: Any = KNeighborsClassifier  # scikit-learn has no types
        voters = neighbors(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
        voters.fit(bank, labels)
        found |= {f"top1_k{k}_val": 100 * voters.score(*val), f"top1_k{k}_test": 100 * voters.score(*test)}
    return found


def test_several_k_are_those_of_scikit_learn(splits: Splits, stage: Stage) -> None:
    found, expected = evaluate(nn.Flatten(), splits, stage, k=KS), scores(splits, stage, KS)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.3)  # fp32 against float64: a tie may fall either way
    assert len({found[f"top1_k{k}_test"] for k in KS}) == len(KS)


def test_validation_chooses_k(splits: Splits, stage: Stage) -> None:
    found = evaluate(nn.Flatten(), splits, stage, k=KS)
    best = max(KS, key=lambda k: found[f"top1_k{k}_val"])
    assert found["k_best"] == best
    for split in ("val", "test"):
        assert found[f"top1_{split}"] == found[f"top1_best_{split}"] == found[f"top1_k{best}_{split}"]
    alone = evaluate(nn.Flatten(), splits, stage, k=best)
    assert alone == {name: found[name] for name in alone}
    assert set(alone) == {"top1_val", "top1_test", "top1_best_val", "top1_best_test"}


@pytest.mark.parametrize("k", [20, [20], [5, 20, 5]])
def test_it_measures_what_it_declares(splits: Splits, stage: Stage, k: Any) -> None:
    settings = knobs.check(evaluate, {"k": k}, "knn")
    declared = [metric.removeprefix("knn/") for metric in load_evaluation("knn").metrics(settings)]
    assert sorted(declared) == sorted(evaluate(nn.Flatten(), splits, stage, **settings))


@pytest.mark.parametrize("k", [0, [], [5, 0], 2.5])
def test_a_k_that_is_no_count_is_refused(k: Any) -> None:
    with pytest.raises(ValueError, match="k"):
        knobs.check(evaluate, {"k": k}, "knn")
