"""Sweeps that began before a knob existed go on as they were: values of a stored spec, and keys of stages."""

import hashlib
import json
from typing import Any

import pytest

from ssl_sweep.knobs.earlier import EARLIER
from ssl_sweep.spec.sweep import SweepSpec, from_dump, resolve
from ssl_sweep.trial.stage_keys import STAGE_VERSION, stage_key

# of the spec below, computed before any of these knobs was there
KEYS = {"pretrain": "8ab6acd98b42469f", "knn": "5ac9277ea043de51", "finetune": "2673efca8ec638f7"}


def made(**sections: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "demo",
            "data": {"source": "digits", "image_size": 8},
            "encoder": "resnet18",
            "method": "dino",
            "evaluate": {"knn": {}, "finetune": {}},
            **sections,
        }
    )


def old_dump(spec: SweepSpec) -> dict[str, Any]:
    """The dump of a spec without the later knobs, and with `decay_norm_and_bias` as it was by default."""
    dump: dict[str, Any] = spec.model_dump(mode="json")
    parts = {"pretrain": dump["pretrain"], "method.dino": dump["method"]}
    parts |= {f"evaluate.{name}": settings for name, settings in dump["evaluate"].items()}
    for path, settings in parts.items():
        for knob in EARLIER.get(path, {}):
            settings.pop(knob, None)
    return {**dump, "pretrain": {**dump["pretrain"], "decay_norm_and_bias": True}}


def keys_of(spec: SweepSpec) -> dict[str, str]:
    config = {**resolve(spec, {}, 0), "unkeyed": []}
    return {stage: stage_key(config, stage, "fp32") for stage in KEYS}


def test_an_old_sweep_keeps_its_keys_and_what_it_did() -> None:
    old = from_dump(old_dump(made()))
    assert keys_of(old) == KEYS
    for path, earlier in EARLIER.items():
        section = {"pretrain": old.pretrain, "method.dino": old.method, "evaluate.finetune": old.evaluate["finetune"]}
        if path in section:
            assert {knob: section[path][knob] for knob in earlier} == earlier
    assert old.pretrain["decay_norm_and_bias"] is True


def test_a_new_sweep_has_the_old_key_where_it_does_the_same() -> None:
    same = made(method={"name": "dino", **EARLIER.get("method.dino", {})})
    assert keys_of(same) == KEYS


def test_lars_has_other_keys_since_it_decays_neither_norm_nor_bias() -> None:
    spec = made(pretrain={"optimizer": "lars"})
    assert spec.pretrain["decay_norm_and_bias"] is None
    old = from_dump(old_dump(spec))
    assert keys_of(old)["pretrain"] != keys_of(spec)["pretrain"]
    told = made(pretrain={"optimizer": "lars", "decay_norm_and_bias": False})
    assert keys_of(told)["pretrain"] == keys_of(spec)["pretrain"]


@pytest.mark.parametrize(
    ("knobs", "changed"),
    [
        ({"beta2": 0.95}, True),
        ({"final_weight_decay": 0.4}, True),
        ({"bias_lr": 0.01}, True),
        ({"beta2": 0.999}, False),
    ],
)
def test_a_later_knob_counts_where_it_changes_something(knobs: dict[str, Any], changed: bool) -> None:
    method = {"name": "dino", **EARLIER.get("method.dino", {})}
    assert (keys_of(made(method=method, pretrain=knobs)) != KEYS) == changed


@pytest.mark.parametrize(("optimizer", "same"), [("sgd", True), ("lars", False)])
def test_an_evaluation_without_the_knob_has_another_key_with_lars_alone(optimizer: str, same: bool) -> None:
    """The old key is written out: a hash of what decides the result."""
    sections: dict[str, Any] = {
        "encoder": {"name": "resnet18"}, "method": {"name": "moco"}, "views": {}, "pretrain": {"lr": 0.1}, "seed": 0,
        "data": {"source": "digits", "image_size": 8},
    }  # fmt: skip
    evaluate = {"semi_supervised": {"optimizer": optimizer, "lr": 0.1}}
    text = json.dumps([STAGE_VERSION, "fp32", {**sections, "evaluate": evaluate}], sort_keys=True)
    old = hashlib.sha256(text.encode()).hexdigest()[:16]
    found = stage_key({**sections, "evaluate": evaluate, "unkeyed": []}, "semi_supervised", "fp32")
    assert (found == old) == same
