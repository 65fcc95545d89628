"""What a sweep will cost: trials, pretrainings and epochs, counted for a grid and bounded for a sampler."""

from typing import Any

import pytest

from ssl_sweep.spec.plan import Plan, make_plan
from ssl_sweep.spec.sweep import from_dump

LR = {"evaluate.linear.lr": [0.1, 0.3, 1.0]}
ALPHA = {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3, 0.4]}


def plan(
    space: dict[str, Any],
    method: str = "autoencoder",
    seeds: int = 3,
    evaluate: dict[str, Any] | None = None,
    **search: Any,
) -> Plan:
    spec = {
        "name": "plan",
        "data": {"source": "digits", "image_size": 8},
        "encoder": "resnet18",
        "method": method,
        "pretrain": {"epochs": 10},
        "evaluate": evaluate or {"linear": {"epochs": 5}},
        "search": {"space": space, "seeds": seeds, **search},
    }
    return make_plan(from_dump(spec), [{"CPU": 2}])


@pytest.mark.parametrize(
    ("space", "trials", "pretrains", "epochs"),
    [(ALPHA, 15, 15, 150), (LR, 9, 3, 30), ({**ALPHA, **LR}, 45, 15, 150), ({}, 3, 3, 30)],
)
def test_trials_that_differ_in_an_evaluation_share_a_pretraining(
    space: dict[str, Any], trials: int, pretrains: int, epochs: int
) -> None:
    planned = plan(space)
    assert (planned.trials, planned.pretrains, planned.pretrain_epochs) == (trials, pretrains, epochs)


def test_searched_epochs_are_counted_one_by_one() -> None:
    planned = plan({"pretrain.epochs": [1, 10], "evaluate.linear.epochs": [2, 3]}, seeds=2)
    assert (planned.pretrains, planned.pretrain_epochs) == (4, 22)
    assert planned.evaluation_epochs == {"linear": 2 * 2 * (2 + 3)}


@pytest.mark.parametrize(
    ("space", "trials", "pretrains"),
    [
        ({"evaluate.linear.lr": {"low": 0.1, "high": 1.0}}, 60, 3),
        (ALPHA, 15, 15),  # there are five settings
        ({"views.overlay_alpha": {"low": 0.0, "high": 0.4, "step": 0.1}, **LR}, 45, 15),
        ({"views.overlay_alpha": {"low": 0.0, "high": 0.4}}, 60, 60),
    ],
)
def test_a_sampler_makes_at_most_so_many(space: dict[str, Any], trials: int, pretrains: int) -> None:
    planned = plan(space, sampler="random", trials=20)
    assert (planned.trials, planned.pretrains, planned.pretrain_epochs) == (trials, pretrains, 10 * pretrains)


def test_a_samplers_epochs_are_the_most_there_can_be() -> None:
    space = {"pretrain.epochs": {"low": 5, "high": 50}, "evaluate.linear.epochs": [2, 7]}
    planned = plan(space, sampler="random", trials=4, seeds=1)
    assert (planned.pretrain_epochs, planned.evaluation_epochs) == (200, {"linear": 28})


@pytest.mark.parametrize(
    ("space", "search", "epochs", "steps"),
    [
        ({"pretrain.steps": [100, 400]}, {}, 0, 500),
        ({"pretrain.steps": [None, 400]}, {}, 10, 400),
        ({"pretrain.steps": [100, 400]}, {"sampler": "random", "trials": 2}, 0, 800),
        ({}, {"cases": {"a": {"pretrain.steps": 70}, "b": {"pretrain.epochs": 3}}}, 3, 70),
    ],
)
def test_lengths_in_steps_are_counted_in_steps(
    space: dict[str, Any], search: dict[str, Any], epochs: int, steps: int
) -> None:
    planned = plan(space, seeds=1, **search)
    assert (planned.pretrain_epochs, planned.pretrain_steps) == (epochs, steps)


@pytest.mark.parametrize("search", [{}, {"sampler": "random", "trials": 4}])
def test_what_is_not_pretrained_is_not_counted(search: dict[str, Any]) -> None:
    planned = plan(LR, method="supervised", **search)
    assert (planned.pretrains, planned.pretrain_epochs) == (0, 0)


@pytest.mark.parametrize(
    ("evaluation", "epochs"),
    [
        # 60 epochs of 1 %, 50 of 2 %, 40 of 5 %, 30 of 10, 20, 50 and 100 %, in epochs of everything: 57.6
        ({"semi_supervised": {}}, {"semi_supervised": 58}),
        ({"semi_supervised": {"fractions": [10, 100], "epochs_per_fraction": 20}}, {"semi_supervised": 22}),
        ({"transfer": {"sources": ["digits", "imagefolder:x"], "epochs": 7}}, {"transfer": 14}),
        ({"transfer": {"sources": ["digits"], "protocol": "knn"}}, {}),
        ({"knn": {}}, {}),
    ],
)
def test_an_evaluation_says_what_it_trains(evaluation: dict[str, Any], epochs: dict[str, int]) -> None:
    assert plan({}, seeds=1, evaluate=evaluation).evaluation_epochs == epochs


def test_an_evaluations_epochs_are_bounded_where_they_are_searched() -> None:
    space = {"evaluate.semi_supervised.epochs_per_fraction": {"low": 5, "high": 40}}
    evaluate = {"semi_supervised": {"fractions": [50]}}
    planned = plan(space, seeds=1, evaluate=evaluate, sampler="random", trials=3)
    assert planned.evaluation_epochs == {"semi_supervised": 60}


def test_a_searched_list_may_hold_null_beside_numbers_of_epochs() -> None:
    space = {"evaluate.semi_supervised.epochs_per_fraction": [None, 40]}
    planned = plan(space, seeds=1, evaluate={"semi_supervised": {"fractions": [50]}}, sampler="random", trials=2)
    assert planned.evaluation_epochs == {"semi_supervised": 40}


def fit(nodes: list[dict[str, float]], **resources: float) -> Plan:
    spec = {
        "name": "plan",
        "data": {"source": "digits", "image_size": 8},
        "encoder": "resnet18",
        "method": "autoencoder",
        "evaluate": {"knn": {}},
        "search": {"space": ALPHA, "seeds": 3},
        "resources": resources,
    }
    return make_plan(from_dump(spec), nodes)


@pytest.mark.parametrize(
    ("resources", "at_once"),
    [
        ({"cpus": 1}, 12),
        ({"cpus": 3}, 3),
        ({"cpus": 0.1, "gpus": 0.1}, 15),
        ({"workers": 2, "gpus": 1}, 2),
        ({"workers": 4, "cpus": 2}, 1),
        ({"workers": 4, "cpus": 1, "max_concurrent": 2}, 2),
    ],
)
def test_workers_are_placed_on_one_node_each(resources: dict[str, float], at_once: int) -> None:
    planned = fit([{"CPU": 4, "GPU": 2}, {"CPU": 4, "GPU": 2}, {"CPU": 4}], **resources)
    assert (planned.problems, planned.concurrent) == ((), at_once)


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        ({"workers": 4, "cpus": 4}, "a trial wants 16 CPU (resources.cpus x resources.workers), there are 12"),
        (
            {"workers": 2, "cpus": 5},
            "a trial wants 2 x 5 CPU (resources), each on one node, there is room for 1: nodes have 4 CPU, 8 CPU",
        ),
    ],
)
def test_what_a_gang_lacks_is_said(resources: dict[str, float], problem: str) -> None:
    nodes: list[dict[str, float]] = [{"CPU": 4}, {"CPU": 8}]
    assert fit(nodes, **resources).problems == (problem,)
