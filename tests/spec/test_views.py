"""Recipes in a spec: each method's own by default, and old specs as they were."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ssl_sweep.data.recipes import DEFAULTS, unusual
from ssl_sweep.knobs import knobs, methods
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.spec.changes import differences
from ssl_sweep.spec.sweep import SweepSpec, from_dump, grid, resolve
from ssl_sweep.spec.views import shown_views, with_views
from ssl_sweep.trial.stage_keys import stage_key

OLD = json.loads((Path(__file__).parent / "dump_before_recipes.json").read_text())  # written by the version before
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def made(**changes: Any) -> SweepSpec:
    base = {
        "name": "views",
        "data": {"source": "digits", "image_size": 32},
        "encoder": "resnet18",
        "method": "simclr",
        "evaluate": {"knn": {}},
    }
    return SweepSpec.model_validate(base | changes)


def views(spec: SweepSpec, **choice: Any) -> dict[str, Any]:
    """What a trial's views have beside recipe none; the trial's config knows no recipe."""
    resolved = resolve(spec, {path.replace("__", "."): value for path, value in choice.items()}, 0)["views"]
    assert resolved.keys() == DEFAULTS.keys()
    return unusual(resolved)


def test_a_method_has_the_views_of_its_paper() -> None:
    assert views(made()) == {"crop_scale_min": 0.08, **JITTER, "gray": 0.2}
    large = views(made(data={"source": "digits", "image_size": 96}))
    assert (large["blur"], large["brightness"]) == (0.5, 0.8)
    assert views(made(method="supervised")) == {}
    assert views(made(method="drlim")) == {"flip": 0.0}


@pytest.mark.parametrize("name", knobs.names("methods"))
def test_every_method_that_pretrains_declares_a_recipe(name: str) -> None:
    spec = made(method=name, encoder="vit_tiny" if name == "mae" else "resnet18")
    assert methods.view_recipe(name) != "none" or not methods.pretrains(name)
    assert resolve(spec, {}, 0)["views"].keys() == DEFAULTS.keys()


def test_another_recipe_with_one_change() -> None:
    spec = made(views={"recipe": "moco_v2", "gray": 0.0})
    assert views(spec) == JITTER
    assert spec.views == {"recipe": "moco_v2", "gray": 0.0}
    assert views(from_dump(spec.model_dump(mode="json"))) == JITTER


def test_the_stage_keys_of_equal_views_are_equal() -> None:
    written = made(views={"recipe": "none", "crop_scale_min": 0.08, **JITTER, "gray": 0.2})
    keys = {stage_key(resolve(spec, {}, 0), "pretrain", "fp32") for spec in (written, made())}
    assert len(keys) == 1


def test_recipes_are_searched_and_compared_in_cases() -> None:
    spec = made(views={"gray": 0.1}, search={"space": {"views.recipe": ["moco_v2", "none"], "views.hue": [0.3]}})
    found = [unusual(resolve(spec, choice, 0)["views"]) for choice in grid(spec)]
    assert found == [{**JITTER, "hue": 0.3, "gray": 0.1}, {"hue": 0.3, "gray": 0.1}]
    cases = made(search={"cases": {"own": {}, "byol's": {"views.recipe": "byol"}, "dino": {"method": "dino"}}})
    crops = [resolve(cases, choice, 0)["views"]["crop_scale_min"] for choice in grid(cases)]
    assert crops == [0.08, 0.08, 0.4]


def test_each_searched_method_has_its_own_recipe() -> None:
    spec = made(search={"space": {"method": {"choices": ["simclr", "moco", "autoencoder"]}}})
    crops = [resolve(spec, choice, 0)["views"]["crop_scale_min"] for choice in grid(spec)]
    assert crops == [0.08, 0.2, 0.08]
    assert list(shown_views(spec)) == ["simclr", "moco", "autoencoder"]


def test_a_wrong_recipe_is_told_with_the_nearest() -> None:
    raw = {"name": "x", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "simclr"}
    wrong = {"views": {"recipe": "moco-v2"}, "search": {"space": {"views.recipe": ["simlcr"]}}, "evaluate": {"knn": {}}}
    with pytest.raises(SpecError, match=r"views.recipe: 'moco-v2': .*did you mean 'moco_v2'") as caught:
        from_dump(raw | wrong)
    assert "search.space.views.recipe[0]: 'simlcr'" in str(caught.value)
    assert "did you mean 'simclr'?" in str(caught.value)


def test_a_method_that_declares_no_recipe_of_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    target = knobs.load("methods", "simclr")
    assert issubclass(target, nn.Module)
    monkeypatch.setattr(target, "view_recipe", "simclr2")
    with pytest.raises(SpecError, match=r"method: 'simclr': declares view_recipe 'simclr2'.*did you mean 'simclr'"):
        from_dump({"name": "x", "data": {"source": "digits"}, "encoder": "resnet18", "method": "simclr"})


def test_a_dump_from_before_recipes_is_the_same_to_the_bit() -> None:
    assert "recipe" not in OLD["views"]
    old = from_dump(OLD)
    keys = {
        choice["case"]: [stage_key(resolve(old, choice, 0), stage, "fp32") for stage in ("pretrain", "knn")]
        for choice in grid(old)
    }
    assert keys == {
        "plain": ["914884c65a7dadc9", "a0deff56d33f249c"],
        "byol": ["7f3b9e716d546539", "e260c218bc10d8d5"],
        "moco": ["464e47a86f1b333f", "c9cabe4e769dd90b"],
    }
    assert from_dump(old.model_dump(mode="json")) == old


def test_an_old_sweep_differs_only_where_its_views_do() -> None:
    old = from_dump(OLD)
    written = {key: value for key, value in OLD.items() if key != "views"}
    assert differences(old, SweepSpec.model_validate(written | {"views": {"recipe": "none", "gray": 0.2}})) == []
    lines = differences(old, SweepSpec.model_validate(written | {"views": {"gray": 0.2}}))
    assert "views.brightness: 0.0 became 0.4 (plain)" in lines
    assert "views.crop_scale_min: 0.2 became 0.08 (byol)" in lines
    assert not any("gray" in line or "recipe" in line for line in lines)


def test_stored_specs_are_compared_by_the_views_of_their_trials() -> None:
    now, before = made().model_dump(mode="json"), from_dump(OLD).model_dump(mode="json")
    assert with_views(now)["views"] == DEFAULTS | {"crop_scale_min": 0.08, **JITTER, "gray": 0.2}
    assert with_views(OLD) is OLD  # its cases have views of their own
    assert with_views({**before, "search": {}, "table": {}})["views"] == DEFAULTS | {"gray": 0.2}
    assert with_views({**now, "method": {"name": "none/such"}})["views"] == {"recipe": "auto"}


def test_plan_shows_each_set_of_views_once() -> None:
    cases = {"a": {}, "b": {"pretrain.lr": 0.1}, "crops": {"views.recipe": "none"}, "none": {"method": "supervised"}}
    spec = made(search={"cases": cases, "space": {"views.gray": [0.0, 0.5]}})
    assert shown_views(spec) == {"a; b": {"crop_scale_min": 0.08, **JITTER}, "crops": {}}
