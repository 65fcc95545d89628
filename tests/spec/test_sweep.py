import copy
import json
from pathlib import Path
from typing import Any

import pytest

import ssl_sweep.methods
from ssl_sweep.data.recipes import DEFAULTS
from ssl_sweep.knobs.objective import Objective
from ssl_sweep.spec import sweep as spec
from ssl_sweep.spec.changes import differences
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


def made(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate(raw(**changes))


def searching(space: dict[str, Any] | None = None, **search: Any) -> SweepSpec:
    return made(search={"space": space or {}, **search})


def test_every_knob_is_filled_in_and_typed() -> None:
    sweep = made()
    assert sweep.method == {"name": "toy_contrast", "temperature": 0.5, "queue": 64, "layers": [8, 8]}
    assert isinstance(sweep.views["flip"], float)
    assert sweep.pretrain["optimizer"] == "sgd"
    assert sweep.evaluate["finetune"]["epochs"] == 2
    assert sweep.evaluate["knn"]["k"] == 20
    assert sweep.search.seeds == (0, 1)
    assert (sweep.retries, sweep.precision, sweep.resources.workers, sweep.tracking.uri) == (2, "auto", 1, None)


def test_grid_is_in_the_files_order_the_first_knob_slowest() -> None:
    assert spec.grid(made()) == [
        {"views.overlay_alpha": 0.0, "method.queue": 16},
        {"views.overlay_alpha": 0.0, "method.queue": 8},
        {"views.overlay_alpha": 0.1, "method.queue": 16},
        {"views.overlay_alpha": 0.1, "method.queue": 8},
    ]


def test_a_spec_without_search_is_one_choice() -> None:
    sweep = SweepSpec.model_validate({key: value for key, value in raw().items() if key != "search"})
    assert spec.grid(sweep) == [{}]
    assert spec.resolve(sweep, {}, 0)["method"]["temperature"] == 0.5


def test_ranges_with_a_step_are_listed_without_rounding_noise() -> None:
    sweep = searching(
        {"views.overlay_alpha": {"low": 0, "high": 0.4, "step": 0.1}, "method.queue": {"low": 2, "high": 8, "step": 3}}
    )
    assert [choice["views.overlay_alpha"] for choice in spec.grid(sweep)[::3]] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [choice["method.queue"] for choice in spec.grid(sweep)[:3]] == [2, 5, 8]


def test_space_has_typed_values() -> None:
    space = {
        "method.temperature": {"low": 1, "high": 4, "log": True},
        "method.queue": {"low": 2, "high": 64},
        "views.auto_augment": [True, False],
        "method.layers": [[1], [2, 3]],
        "encoder.width": [8],
        "evaluate.knn.k": [5, 20],
        "pretrain.clip_norm": [None, 1],
    }
    searched = spec.space(searching(space, sampler="tpe", trials=3))
    temperature, queue = searched["method.temperature"], searched["method.queue"]
    assert isinstance(temperature, spec.Range)
    assert isinstance(queue, spec.Range)
    assert (temperature.low, temperature.high, temperature.log, temperature.is_int) == (1.0, 4.0, True, False)
    assert (queue.low, queue.high, queue.step, queue.is_int) == (2, 64, None, True)
    assert searched["views.auto_augment"] == spec.Categorical(values=(True, False))
    assert searched["method.layers"] == spec.Categorical(values=([1], [2, 3]))
    assert list(searched) == list(space)
    clips = searched["pretrain.clip_norm"]
    assert isinstance(clips, spec.Categorical)
    assert [type(value) for value in clips.values] == [type(None), float]


def test_resolve_is_plain_and_whole() -> None:
    sweep = made(root="/somewhere")
    config = spec.resolve(sweep, {"views.overlay_alpha": 0.1, "method.queue": 8}, 7)
    assert json.loads(json.dumps(config)) == config
    assert config["seed"] == 7
    assert config["precision"] == "auto"
    assert config["data"] == {**sweep.data, "root": "/somewhere"}
    assert config["method"] == {"name": "toy_contrast", "temperature": 0.5, "queue": 8, "layers": [8, 8]}
    assert config["views"] == DEFAULTS | {"flip": 0.0, "overlay_alpha": 0.1}
    assert config["encoder"]["name"] == "resnet18"
    assert config["evaluate"] == sweep.evaluate
    assert config["pretrain"] == sweep.pretrain
    assert config["health"] == sweep.health


def test_resolve_leaves_the_spec_alone() -> None:
    sweep = searching({"evaluate.knn.k": [1, 2], "views.overlay_alpha": [0.1]})
    before = sweep.model_dump(mode="json")
    config = spec.resolve(sweep, {"evaluate.knn.k": 2, "views.overlay_alpha": 0.1}, 0)
    assert config["evaluate"]["knn"]["k"] == 2
    assert sweep.model_dump(mode="json") == before


def test_resolve_refuses_what_is_no_choice() -> None:
    sweep = made()
    with pytest.raises(ValueError, match=r"no value for method\.queue"):
        spec.resolve(sweep, {"views.overlay_alpha": 0.1}, 0)
    with pytest.raises(spec.SpecError, match=r"method\.queue: 0: must be greater than or equal to 1"):
        spec.resolve(sweep, {"views.overlay_alpha": 0.1, "method.queue": 0}, 0)
    with pytest.raises(spec.SpecError, match="is not a knob"):
        spec.resolve(sweep, {"views.overlay_alpha": 0.1, "method.queue": 8, "method.quue": 8}, 0)


CASES = {
    "overlay": {"views.overlay_alpha": 0.3},
    "mask": {"views.mask_ratio": 0.5, "method.queue": 8},
    "siamese": {"method": {"name": "toy_siamese", "queue": 4}, "method.temperature": 1},
    "supervised": {"method": "supervised"},
    "wide": {"encoder": {"name": "resnet34", "width": 8}},
    "plain": None,
}


def test_cases_are_the_values_of_a_knob_called_case() -> None:
    sweep = searching({"pretrain.lr": [0.1, 0.2]}, cases=CASES)
    assert spec.grid(sweep)[:3] == [
        {"case": "overlay", "pretrain.lr": 0.1},
        {"case": "overlay", "pretrain.lr": 0.2},
        {"case": "mask", "pretrain.lr": 0.1},
    ]
    assert spec.space(sweep)["case"] == spec.Categorical(values=tuple(CASES))
    assert sweep.table.rows == ("case", "pretrain.lr")


def test_a_case_overrides_and_may_replace_the_method() -> None:
    sweep = searching(cases=CASES)
    configs = {name: spec.resolve(sweep, {"case": name}, 0) for name in CASES}
    assert configs["overlay"]["views"]["overlay_alpha"] == 0.3
    assert configs["mask"]["views"]["overlay_alpha"] == 0.0
    assert configs["mask"]["method"] == {"name": "toy_contrast", "temperature": 0.5, "queue": 8, "layers": [8, 8]}
    # the base's temperature 0.5 belongs to the method that is replaced
    assert configs["siamese"]["method"] == {"name": "toy_siamese", "temperature": 1.0, "queue": 4, "layers": [8, 8]}
    assert configs["supervised"]["method"] == {"name": "supervised"}
    assert configs["wide"]["encoder"]["width"] == 8
    assert configs["plain"]["method"] == sweep.method


def test_objective() -> None:
    search = made().search
    assert search.objective == "maximize finetune/top1_val"
    assert search.objectives == (Objective("maximize", "finetune/top1_val"),)
    search = searching(objective="minimize  pretrain/loss").search
    assert search.objectives == (Objective("minimize", "pretrain/loss"),)
    assert searching(objective="maximize pretrain/knn_top1_val").search.primary.metric == "pretrain/knn_top1_val"


@pytest.mark.parametrize(
    ("health", "metric", "text"),
    [
        ({}, "knn_top_val", "did you mean 'pretrain/knn_top1_val'"),
        ({"every": 0}, "effective_rank", "health.every is 0"),
    ],
)
def test_an_objective_of_pretraining_is_measured_there(health: dict[str, int], metric: str, text: str) -> None:
    with pytest.raises(spec.SpecError, match=text):
        spec.from_dump(raw(health=health, search={"objective": f"maximize pretrain/{metric}"}))


def test_health_is_filled_in_and_cannot_be_searched() -> None:
    assert made().health["every"] == 1
    assert made(health={"on_collapse": "stop"}).health["on_collapse"] == "stop"
    with pytest.raises(spec.SpecError, match="it watches, and changes nothing"):
        spec.from_dump(raw(search={"space": {"health.every": [1, 2]}}))


def test_a_dump_gives_the_spec_again() -> None:
    sweep = made(
        root="/data",
        search={
            "space": {"views.blur": [0, 0.2], "pretrain.lr": {"low": 0.01, "high": 1, "log": True}},
            "cases": CASES,
            "sampler": "tpe",
            "trials": 4,
            "seeds": [3, 1],
        },
        table={"rows": "case", "published": {"knn/top1_test": {"overlay": 3, "mask": 2.5}}},
    )
    stored = json.loads(json.dumps(sweep.model_dump(mode="json")))
    again = spec.from_dump(stored)
    assert again == sweep
    assert differences(sweep, again) == []
    assert again.root == Path("/data")
    assert spec.space(again) == spec.space(sweep)


def test_from_dump_refuses_another_versions_knobs() -> None:
    stored = made().model_dump(mode="json")
    stored["method"]["gone"] = 3
    with pytest.raises(spec.SpecError, match=r"the stored spec: method\.gone: 3: is not a knob of toy_contrast"):
        spec.from_dump(stored)


def test_differences_name_each_key_and_both_values() -> None:
    changed = copy.deepcopy(raw())
    changed["search"]["seeds"] = 3
    changed["pretrain"] = {"epochs": 7}
    changed["evaluate"]["linear"] = {}
    changed = differences(made(), SweepSpec.model_validate(changed))
    assert "search.seeds: [0, 1] became [0, 1, 2]" in changed
    assert "pretrain.epochs: 50 became 7" in changed
    assert "evaluate.linear.epochs: nothing became 100" in changed
    assert "retries" not in " ".join(changed)
