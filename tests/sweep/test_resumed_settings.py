"""What a resume may set in a sweep that exists."""

from typing import Any

import pytest

from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.sweep.resumed_settings import changes_of


@pytest.fixture
def spec() -> SweepSpec:
    search: dict[str, Any] = {
        "space": {"pretrain.lr": [0.1, 0.2]},
        "cases": {"a": {"pretrain.epochs": 1}, "b": {"pretrain.epochs": 2}},
    }
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "moco"}
    return from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search})


def test_keys_that_change_no_result_change_the_spec(spec: SweepSpec) -> None:
    keys = ["data.on_error=skip", "retries=7", "resources.timeout=60", "resources.max_concurrent=1", "keep_encoders=1"]
    changes = changes_of(spec, keys)
    assert changes.settings == {}
    assert changes.spec.data["on_error"] == "skip"
    assert (changes.spec.retries, changes.spec.keep_encoders) == (7, 1)
    assert (changes.spec.resources.timeout, changes.spec.resources.max_concurrent) == (60, 1)
    assert changes_of(spec, []).spec == spec


def test_knobs_are_settings_and_leave_the_spec(spec: SweepSpec) -> None:
    changes = changes_of(spec, ["pretrain.clip_norm=1", "method.temperature=0.5", "views.gray=0.1", "retries=3"])
    assert changes.settings == {"pretrain.clip_norm": 1.0, "method.temperature": 0.5, "views.gray": 0.1}
    assert changes.spec == spec.model_copy(update={"retries": 3})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.lr=0.3", "pretrain.lr: is searched"),
        ("pretrain.epochs=3", "pretrain.epochs: is searched"),
        ("method=simclr", "method.name: cannot change"),
        ("data.image_size=16", "data.image_size: cannot change"),
        ("search.trials=3", "search.trials"),
        ("pretrain.clip_norm=fast", "clip_norm"),
        ("pretrain.clip_nrom=1", "clip_norm"),
    ],
)
def test_what_would_change_finished_trials_is_refused(spec: SweepSpec, override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        changes_of(spec, [override])


def test_skipping_is_allowed_but_not_undone(spec: SweepSpec) -> None:
    skips = changes_of(spec, ["data.on_error=skip"]).spec
    with pytest.raises(SpecError, match=r"data\.on_error: cannot change .*skip became raise"):
        changes_of(skips, ["data.on_error=raise"])
