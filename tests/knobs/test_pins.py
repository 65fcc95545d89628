"""Pins: which trials and stages a plugin's identity concerns, and what a worker with another plugin is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_sweep.knobs.pins import PinError, check_pins, data_use, is_data_use, used_by
from ssl_sweep.plugins import catalog
from ssl_sweep.trial.stage_keys import stage_key

PINS = {
    "method local/mine": "sha256:a",
    "encoder noise": "lab 1.2",
    "evaluation local/mine": "sha256:b",
    "evaluation transfer source local/photos": "sha256:c",
    "source local/photos": "sha256:c",
}
CONFIG = {
    "method": {"name": "local/mine"}, "encoder": {"name": "resnet18"}, "views": {}, "pretrain": {}, "seed": 0,
    "data": {"image_size": 8}, "health": {}, "evaluate": {"local/mine": {}, "transfer": {}, "knn": {}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text("class Method: ...\n")
    catalog.use(tmp_path)
    yield tmp_path
    catalog.use(None)


def test_a_trial_has_the_pins_that_it_uses() -> None:
    assert used_by(CONFIG, PINS).keys() == PINS.keys() - {"encoder noise"}
    other = {**CONFIG, "method": {"name": "moco"}, "encoder": {"name": "noise"}}
    assert used_by(other, PINS).keys() == PINS.keys() - {"method local/mine"}


@pytest.mark.parametrize(
    ("pin", "concerned"),
    [
        ("method local/mine", {"pretrain", "knn", "transfer", "local/mine"}),
        ("source local/photos", {"pretrain", "knn", "transfer", "local/mine"}),
        ("evaluation local/mine", {"local/mine"}),
        ("evaluation transfer source local/photos", {"transfer"}),
    ],
)
def test_a_pin_is_in_the_keys_of_the_stages_that_it_concerns(pin: str, concerned: set[str]) -> None:
    changed = {**PINS, pin: "another"}
    stages = ("pretrain", "knn", "transfer", "local/mine")
    keys = [[stage_key({**CONFIG, "pins": pins}, stage, "fp32") for stage in stages] for pins in (PINS, changed)]
    assert {stage for stage, old, new in zip(stages, *keys, strict=True) if old != new} == concerned


def test_the_datas_identities_are_told_from_pins() -> None:
    uses = [
        "data.source",
        "data.labelled",
        data_use("transfer", "digits"),
        data_use("local/mine", "folder:/my source x"),
    ]
    assert [use for use in uses if not is_data_use(use)] == []
    assert [pin for pin in [*PINS, "encoder.weights a b.safetensors"] if is_data_use(pin)] == []


def test_keys_without_pins_are_as_they_were() -> None:
    assert stage_key(CONFIG, "knn", "fp32") == stage_key({**CONFIG, "pins": {}}, "knn", "fp32")


def test_a_worker_refuses_another_plugin_than_the_pinned(folder: Path) -> None:
    identity = catalog.identity("methods", "local/mine")
    check_pins({"pins": {"method local/mine": identity, "encoder.weights a b.safetensors": "sha256:d"}})
    message = rf"method 'local/mine' of {folder}/methods/mine.py is {identity} here, and the sweep began with sha256:a"
    with pytest.raises(PinError, match=message):
        check_pins({"pins": PINS})
