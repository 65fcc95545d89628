from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import ssl_sweep.methods
from ssl_sweep.knobs.problems import findings_of, key_text
from ssl_sweep.spec.sweep import SweepSpec


@pytest.fixture(autouse=True)
def _toy_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods with knobs, whatever methods the project has."""
    folder = Path(__file__).parent / "toy_methods"
    monkeypatch.setattr(ssl_sweep.methods, "__path__", [*ssl_sweep.methods.__path__, str(folder)])


def raw(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "toy",
        "data": {"source": "digits", "image_size": 8},
        "encoder": "resnet18",
        "method": {"name": "toy_contrast", "temperature": 0.5},
        "views": {"flip": 0},
        "evaluate": {"finetune": {"epochs": 2}, "knn": None},
        "search": {"space": {"views.overlay_alpha": [0, 0.1], "method.queue": [16, 8]}, "seeds": 2},
    }
    return base | changes


def refused(values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as raised:
        SweepSpec.model_validate(values)
    return {key_text(found.loc): f"{found.message}; {found.remedy}" for found in findings_of(raised.value)}


def refused_search(space: dict[str, Any] | None = None, **search: Any) -> dict[str, str]:
    keys = refused(raw(search={"space": space or {}, **search}))
    assert all(key.startswith("search.") for key in keys), keys
    return {key.removeprefix("search."): text for key, text in keys.items()}


def test_all_mistakes_at_once() -> None:
    values = {
        "nmae": "x",
        "data": {"sorce": "digits", "image_size": 8},
        "encoder": "resnet19",
        "method": {"name": "toy_contrast", "temprature": 1},
        "views": {"overlay_alpha": 0.5},
        "pretrain": {"lr": "1e-4"},
        "evaluate": {"knn": {"k": 0}, "lineer": {}},
        "precision": "fp16",
        "search": {"seeds": [1, 1], "sampler": "gird", "space": {"views.flipp": [1]}, "tirals": 3},
        "table": {"row": "x"},
        "resources": {"workers": 0},
    }
    assert refused(values).keys() == {
        "nmae", "name", "data.sorce", "data.source", "encoder", "method.temprature", "views.overlay_alpha",
        "pretrain.lr", "evaluate.knn.k", "evaluate.lineer", "precision", "search.seeds", "search.sampler",
        "search.tirals", "search.space.views.flipp", "table.row", "resources.workers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"name": "a/b"}, "name", "rename it"),
        ({"name": ".."}, "name", "rename it"),
        ({"name": "mlflow.db"}, "name", "is a file of every storage; give the sweep another name"),
        ({"encoder": "resnet17"}, "encoder", "there is no encoder 'resnet17'; did you mean 'resnet18'?"),
        ({"method": {"name": "toy_contrst"}}, "method.name", "did you mean 'toy_contrast'?"),
        ({"method": {"temperature": 1}}, "method", "must name one of the methods"),
        ({"method": 3}, "method", "must name one of the methods"),
        ({"evaluate": {}}, "evaluate", "at least 1 item"),
        ({"evaluate": ["knn"]}, "evaluate", "must be a mapping"),
        ({"views": 3}, "views", "must be a mapping"),
        ({"search": [1]}, "search", "must be a mapping"),
        ({"resources": {"gpus": 0.5, "workers": 2}}, "resources.gpus", "NCCL"),
        ({"resources": {"gpus": 1.5}}, "resources.gpus", "use 1 or 2"),
        ({"resources": {"workers": 3}, "pretrain": {"batch_size": 256}}, "pretrain.batch_size", "use 255 or 258"),
        ({"retries": -1}, "retries", "use a value in [0, ∞)"),
        ({"retries": True}, "retries", "must be a valid integer"),
        ({"tracking": {"uri": "postgresql://lab:secret@host/db"}}, "tracking.uri", "put it into MLFLOW_TRACKING_URI"),
        ({"tracking": {"url": "x"}}, "tracking.url", "did you mean 'uri'?"),
        ({"description": 3}, "description", "must be a valid string"),
    ],
)
def test_mistakes_outside_the_search(changes: dict[str, Any], key: str, text: str) -> None:
    assert text in refused(raw(**changes))[key]


def test_a_fraction_of_a_gpu_is_for_one_worker() -> None:
    assert SweepSpec.model_validate(raw(resources={"gpus": 0.25})).resources.gpus == 0.25


@pytest.mark.parametrize(
    ("space", "key", "text"),
    [
        ({"method.tempratur": [1]}, "method.tempratur", "is not a knob of toy_contrast; did you mean 'method.temper"),
        ({"queue": [1]}, "queue", "did you mean 'method.queue'?"),
        ({"evaluate.linear.lr": [1]}, "evaluate.linear.lr", "is not a knob of this spec"),
        ({"data.image_size": [8]}, "data.image_size", "share one data set"),
        ({"seed": [1]}, "seed", "use `search.seeds`"),
        ({"case": ["a"]}, "case", "`search.cases`"),
        ({"views.overlay_alpha": [0.1, 0.5, "x"]}, "views.overlay_alpha[1]", "must dominate"),
        ({"views.overlay_alpha": [0.1, 0.5, "x"]}, "views.overlay_alpha[2]", "must be a valid number"),
        ({"views.overlay_alpha": [0, 0.0]}, "views.overlay_alpha[1]", "is there twice"),
        ({"views.overlay_alpha": []}, "views.overlay_alpha", "has no choices"),
        ({"views.overlay_alpha": 0.1}, "views.overlay_alpha", "must be a list of choices or a range"),
        ({"views.overlay_alpha": {"low": 0, "high": 0.5, "step": 0.1}}, "views.overlay_alpha.high", "in [0, 0.5)"),
        ({"method.temperature": {"low": 1}}, "method.temperature.high", "is required"),
        ({"method.temperature": {"low": 1, "high": 2, "stp": 1}}, "method.temperature.stp", "did you mean 'step'?"),
        ({"method.temperature": {"low": 2, "high": 1, "step": 1}}, "method.temperature.low", "must be below high"),
        ({"method.temperature": {"low": 1, "high": 2, "step": 0.3}}, "method.temperature.step", "use high: 1.9"),
        ({"method.temperature": {"low": 1, "high": 2, "step": 1, "log": True}}, "method.temperature.step", "log"),
        ({"method.queue": {"low": 1, "high": 2, "step": 0.5}}, "method.queue.step", "whole number"),
        ({"method.queue": {"low": 1, "high": 2.5, "step": 1}}, "method.queue.high", "integer"),
        ({"method.temperature": {"low": 1, "high": 2}}, "method.temperature", "a grid cannot list; add `step:`"),
    ],
)  # fmt: skip
def test_mistakes_in_the_space(space: dict[str, Any], key: str, text: str) -> None:
    assert text in refused_search(space)[f"space.{key}"]


def test_a_logarithm_needs_a_low_above_zero() -> None:
    space = {"pretrain.weight_decay": {"low": 0, "high": 1, "log": True}}
    assert "above 0" in refused_search(space, sampler="random", trials=1)["space.pretrain.weight_decay.log"]


@pytest.mark.parametrize(
    ("cases", "key", "text"),
    [
        ({"a": {"views.flipp": 1}}, "a.views.flipp", "did you mean 'views.flip'?"),
        ({"a": {"views.flip": 2}}, "a.views.flip", "use a value in [0, 1]"),
        ({"a": {"method": "supervized"}}, "a.method", "did you mean 'supervised'?"),
        ({"a": {"method": "supervised", "method.queue": 3}}, "a.method.queue", "is not a knob of supervised"),
        ({"a": {"method": {"name": "toy_siamese", "queu": 3}}}, "a.method.queu", "did you mean 'queue'?"),
        ({"a": 3}, "a", "must be a mapping"),
        ({"a": {"pretrain.lr": 0.1}}, "a.pretrain.lr", "is searched by `search.space` too"),
    ],
)
def test_mistakes_in_a_case(cases: dict[str, Any], key: str, text: str) -> None:
    assert text in refused_search({"pretrain.lr": [0.1]}, cases=cases)[f"cases.{key}"]


def test_a_replaced_method_must_take_what_the_space_gives() -> None:
    found = refused_search({"method.queue": [8]}, cases={"a": {"method": "supervised"}, "b": {"method": "toy_siamese"}})
    assert found.keys() == {"cases.a.method"}
    assert "'method.queue'" in found["cases.a.method"]


@pytest.mark.parametrize(
    ("search", "key", "text"),
    [
        ({"objective": "maximize finetune/top1_test"}, "objective", "would select on the test split"),
        ({"objective": "maximize finetune/top1_best_test"}, "objective", "use finetune/top1_best_val"),
        ({"objective": "maximize finetune/top_1_val"}, "objective", "did you mean 'finetune/top1_val'?"),
        ({"objective": "maximize linear/top1_val"}, "objective", "add `linear:` to evaluate"),
        ({"objective": "maximise finetune/top1_val"}, "objective", "write `maximize"),
        ({"objective": 3}, "objective", "must be a valid string"),
        ({"sampler": "tpe"}, "trials", "counts choices"),
        ({"sampler": "random", "trials": 0}, "trials", "use a value in [1, ∞)"),
        ({"sampler": "random", "trials": 2, "space": {}}, "space", "has nothing to search"),
        ({"seeds": 0}, "seeds", "is no number of seeds; use a whole number in [1, 1000], or a list"),
        ({"seeds": [1, -1]}, "seeds[1]", "greater than or equal to 0"),
        ({"seeds": []}, "seeds", "at least 1 item"),
        ({"sampler": "cmaes", "trials": 9}, "space.pretrain.lr", "write `{low: ..., high: ...}`, or use"),
        ({"sampler": "cmaes", "trials": 9, "cases": {"a": None}}, "cases", "searches ranges only"),
        ({"from": ["old"]}, "from", "has no effect, as sampler 'grid' does not learn; leave it out, or use one of tpe"),
        ({"sampler": "tpe", "trials": 9, "from": ["toy"]}, "from", "is this sweep itself"),
        ({"pruner": "ashaa"}, "pruner", "names no pruner; did you mean 'asha'?"),
        ({"pruner": 3}, "pruner", "write one of none, median, asha, hyperband, wilcoxon, or {name: ..., settings}"),
        ({"pruner": {"name": "none", "min_epochs": 3}}, "pruner", "write one of none"),
        ({"pruner": {"name": "asha", "min_epoch": 3}}, "pruner.min_epoch", "did you mean 'min_epochs'?"),
        ({"pruner": {"name": "asha", "reduction_factor": 1}}, "pruner.reduction_factor", "use a value in [2, ∞)"),
        ({"pruner": {"name": "hyperband", "min_epochs": 3}}, "pruner.min_epochs", "than the 2 epochs of finetune"),
        ({"pruner": "wilcoxon", "seeds": 4}, "pruner", "can prune nothing of 4 seeds: p is below 0.1 from 4 seeds on"),
        ({"prune_on": "minimize pretrain/loss"}, "prune_on", "and the pruner is none; leave it out, or use one of"),
        ({"pruner": "asha", "prune_on": "pretrain/loss"}, "prune_on", "write `maximize pretrain/knn_top1_val`"),
        ({"pruner": "asha", "prune_on": "maximize knn/top1_val"}, "prune_on", "is not reported while a trial trains"),
        ({"pruner": "asha", "prune_on": "maximize pretrain/accuracy"}, "prune_on", "is not reported while"),
        ({"space": [1]}, "space", "must be a mapping"),
        ({"cases": [1]}, "cases", "must be a mapping"),
    ],
)  # fmt: skip
def test_mistakes_in_the_rest_of_the_search(search: dict[str, Any], key: str, text: str) -> None:
    space = search.pop("space", {"pretrain.lr": [0.1]})
    assert text in refused(raw(search={"space": space, **search}))[f"search.{key}"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"health": {"every": 0}}, "is not measured, as health.every is 0"),
        ({"method": "supervised"}, "is never reported, as method supervised does not pretrain"),
    ],
)
def test_what_is_to_be_pruned_on_must_be_reported(changes: dict[str, Any], text: str) -> None:
    search = {"space": {"pretrain.lr": [0.1]}, "pruner": "asha", "prune_on": "maximize pretrain/knn_top1_val"}
    assert text in refused(raw(search=search, **changes))["search.prune_on"]


def test_one_mistake_makes_no_others() -> None:
    assert refused(raw(method="toy_contrst")).keys() == {"method"}
    assert refused(raw(evaluate={"knnn": {}}, table={"columns": "knn/top1_test"})).keys() == {"evaluate.knnn"}
    assert refused(raw(search={"space": {"views.flipp": [1]}}, table={"rows": "views.flip"})).keys() == {
        "search.space.views.flipp"
    }


def test_a_grid_too_large_to_run_is_refused() -> None:
    space = {"pretrain.lr": {"low": 1, "high": 1000, "step": 1}, "method.queue": {"low": 1, "high": 1000, "step": 1}}
    assert "1,000,000 choices" in refused_search(space)["space"]


def test_knobs_that_do_not_fit_together_are_refused_before_launch() -> None:
    found = refused_search({"views.mask_ratio": [0.0, 0.5], "views.mask_patch": [2, 3]})
    assert "does not divide the image size 8" in found["space.views"]
    assert "does not divide" in refused(raw(views={"mask_ratio": 0.5, "mask_patch": 3}, search={}))["views"]


def test_an_encoder_that_the_method_cannot_use_is_refused_before_launch() -> None:
    found = refused(raw(method="mae", encoder="resnet18", search={}))
    assert "mae cannot use resnet18; use one of vit_base, vit_small, vit_tiny" in found["encoder"]


def test_what_a_sampler_may_draw_and_does_not_fit_is_refused_before_launch() -> None:
    lr = {"low": 0.001, "high": 1.0, "log": True}
    lists = {"views.mask_ratio": [0.0, 0.5], "views.mask_patch": [2, 3], "pretrain.lr": lr}
    found = refused_search(lists, sampler="random", trials=3)
    assert "does not divide the image size 8" in found["space.views"]
    assert "pretrain" not in found["space.views"]  # the lists alone are told
    mae = {"name": "mae", "mask_ratio": {"low": 0.5, "high": 0.8}}
    sections = {"method": {"choices": ["simclr", mae]}, "encoder": {"choices": ["vit_tiny", "resnet18"]}}
    found = refused_search({**sections, "pretrain.lr": lr}, sampler="tpe", trials=3)
    assert "method mae cannot use resnet18; use one of vit_base, vit_small, vit_tiny" in found["space.encoder"]
    fitting = {**sections, "encoder": {"choices": ["vit_tiny", "vit_small"]}, "pretrain.lr": lr}
    SweepSpec.model_validate(raw(search={"space": fitting, "sampler": "tpe", "trials": 3}))


def test_an_encoder_without_weights_goes_with_no_method_that_trains_it() -> None:
    found = refused(raw(method="simclr", encoder="pixels", search={}))
    assert "simclr cannot use pixels; use one of" in found["encoder"]
    assert "encoder" not in refused(raw(method="supervised", encoder="pixels", search={}, pretrain={"lr": -1}))


def test_a_number_or_a_list_is_refused_where_it_is_wrong() -> None:
    alone, element = refused(raw(evaluate={"knn": {"k": 0}})), refused(raw(evaluate={"knn": {"k": [20, 0]}}))
    assert list(alone) == ["evaluate.knn.k"]
    assert "list," not in alone["evaluate.knn.k"].partition(";")[2].partition(";")[2]
    assert [place for place in element if place.startswith("evaluate")] == ["evaluate.knn.k[1]"]


def test_every_case_whose_encoder_the_method_cannot_use_is_named() -> None:
    cases = {"vit": {"encoder": "vit_tiny"}, "small": {"encoder": {"name": "resnet18", "width": 8}}, "own": {}}
    cases |= {"other": {"encoder.width": 8}}
    for space in ({}, {"pretrain.lr": [0.1, 0.2]}):
        found = refused({**raw(search={"space": space, "cases": cases}), "method": "mae"})
        assert found.keys() == {"encoder", "search.cases.small.encoder", "search.cases.other.encoder.width"}
        assert all(text.startswith("method mae cannot use resnet18; use one of") for text in found.values())
    methods = {
        "a": {"method": "mae"},
        "b": {"method": {"name": "mae", "mask_ratio": 0.5}},
        "c": {"encoder": "vit_tiny"},
    }
    assert refused(raw(search={"cases": methods})).keys() == {"search.cases.a.method", "search.cases.b.method"}
    space = {"method": {"choices": ["simclr", "mae"]}}
    assert refused(raw(search={"space": space})).keys() == {"search.space.method"}
