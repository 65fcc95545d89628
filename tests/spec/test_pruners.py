"""What a spec says of pruning, as far as it is right; mistakes are in test_spec_mistakes."""

from typing import Any

import pytest

from ssl_sweep.spec.changes import differences
from ssl_sweep.spec.pruners import Halving, Median
from ssl_sweep.spec.pruning import max_epochs
from ssl_sweep.spec.sweep import SweepSpec, from_dump


def spec(evaluate: Any = None, **search: Any) -> SweepSpec:
    base = {"name": "s", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    searched = {"space": {"pretrain.epochs": [3, 9, 6]}, **search}
    return from_dump(base | {"evaluate": evaluate or {"knn": {}, "finetune": {"epochs": 4}}, "search": searched})


def test_a_pruner_is_a_name_or_a_mapping() -> None:
    assert spec(pruner="asha").search.pruner == Halving(name="asha", min_epochs=1, reduction_factor=3)
    given = spec(pruner={"name": "median", "min_epochs": 2}).search.pruner
    assert given == Median(name="median", min_epochs=2, min_choices=5)
    assert spec(pruner="none").search.prunes_by is None


@pytest.mark.parametrize("pruner", ["none", "median", "asha", "hyperband", "wilcoxon"])
def test_it_comes_back_from_the_ledger_as_it_was(pruner: str) -> None:
    made = spec(pruner=pruner, seeds=5)
    again = from_dump(made.model_dump(mode="json"))
    assert again == made
    assert differences(made, again) == []


def test_without_a_pruner_the_stored_spec_is_as_before() -> None:
    stored = spec().model_dump(mode="json")["search"]
    assert (stored["pruner"], stored["prune_on"], stored["from"]) == ("none", "", [])


@pytest.mark.parametrize(
    ("objective", "watched", "epochs"),
    [
        ("maximize finetune/top1_val", "maximize finetune/top1_val", 4),
        ("maximize knn/top1_val", "maximize pretrain/knn_top1_val", 9),
        ("minimize pretrain/loss", "minimize pretrain/loss", 9),
        ("maximize finetune/top1_best_val", "maximize pretrain/knn_top1_val", 9),
    ],
)
def test_the_objective_is_watched_where_it_is_known_in_time(objective: str, watched: str, epochs: int) -> None:
    made = spec(pruner="hyperband", objective=objective)
    assert made.search.prune_on == watched
    assert max_epochs(made.search, made.pretrain, made.evaluate) == epochs


@pytest.mark.parametrize(
    ("pretrain", "space", "epochs"),
    [
        ({"steps": 1000, "epoch_steps": 30}, {}, 34),
        ({"steps": 1000}, {}, 20),
        ({}, {"pretrain.steps": {"low": 100, "high": 1000}, "pretrain.epoch_steps": [10, 50]}, 100),
        ({"steps": 1000}, {"pretrain.epochs": [3, 30]}, 30),
    ],
)
def test_epochs_of_steps_are_watched(pretrain: dict[str, int], space: dict[str, Any], epochs: int) -> None:
    watched = {"prune_on": "minimize pretrain/loss", "pruner": "hyperband", "sampler": "random", "trials": 3}
    base = {"name": "s", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    search = {"space": {**space, "pretrain.lr": [0.1, 0.2]}, **watched}
    made = from_dump(base | {"pretrain": pretrain, "evaluate": {"knn": {}}, "search": search})
    assert max_epochs(made.search, made.pretrain, made.evaluate) == epochs


def test_a_loss_is_turned_only_where_the_objective_rises() -> None:
    assert spec(pruner="asha", prune_on="minimize pretrain/loss").search.prune_sign == -1
    falls = spec(pruner="asha", prune_on="minimize pretrain/loss", objective="minimize pretrain/loss")
    assert falls.search.prune_sign == 1


def test_wilcoxon_watches_no_epoch() -> None:
    search = spec(pruner={"name": "wilcoxon", "p_threshold": 0.2}, seeds=4).search
    assert (search.prunes_by, search.prune_on) == ("seed", "")
