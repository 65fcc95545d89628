"""The k-NN evaluation on the pixels of real digits, against scikit-learn's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.evaluations.knn import evaluate
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.training.classifier import METRICS
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
    assert set(alone) == set(METRICS)


def test_top5_and_the_mean_per_class_are_scikit_learns(splits: Splits, stage: Stage) -> None:
    found = evaluate(nn.Flatten(), splits, stage, k=20)
    (bank, labels), (queries, truth) = (
        (features.double().numpy(), truth.numpy())
        for features, truth in (extract(nn.Flatten(), pack, 8, stage) for pack in (splits.train, splits.test))
    )
    neighbors: Any = KNeighborsClassifier
    voters = neighbors(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)).fit(bank, labels)
    predicted, shares = voters.predict(queries), voters.predict_proba(queries)
    assert found["top5_test"] == pytest.approx(100 * top_k_accuracy_score(truth, shares, k=5), abs=0.8)  # ties at 0
    assert found["mean_per_class_test"] == pytest.approx(100 * balanced_accuracy_score(truth, predicted), abs=0.3)
    assert found["top1_test"] < found["top5_test"] <= 100


def test_a_refit_has_validation_images_vote_on_test_images_alone(splits: Splits, stage: Stage) -> None:
    first, found = (evaluate(nn.Flatten(), splits, stage, k=5, refit=refit) for refit in (False, True))
    whole = evaluate(nn.Flatten(), splits.joined(), stage, k=5)
    assert whole.keys() == {"top1_test", "top5_test", "mean_per_class_test"}
    assert {name: found[name] for name in whole} == whole
    assert found["top1_val"] == first["top1_val"]
    assert found["top1_test"] != first["top1_test"]


@pytest.mark.parametrize("k", [20, [20], [5, 20, 5]])
def test_it_measures_what_it_declares(splits: Splits, stage: Stage, k: Any) -> None:
    settings = knobs.check(evaluate, {"k": k}, "knn")
    declared = [metric.removeprefix("knn/") for metric in load_evaluation("knn").metrics(settings)]
    assert sorted(declared) == sorted(evaluate(nn.Flatten(), splits, stage, **settings))


@pytest.mark.parametrize("k", [0, [], [5, 0], 2.5])
def test_a_k_that_is_no_count_is_refused(k: Any) -> None:
    with pytest.raises(ValueError, match="k"):
        knobs.check(evaluate, {"k": k}, "knn")
