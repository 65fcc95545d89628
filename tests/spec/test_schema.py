import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ssl_sweep.knobs import knobs
from ssl_sweep.spec.document import read_yaml
from ssl_sweep.spec.file import load_spec
from ssl_sweep.spec.schema import json_schema, searched_schemas

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").rglob("*.yaml"))

SPEC: dict[str, Any] = {
    "name": "toy",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 16},
    "method": "autoencoder",
    "pretrain": {"milestones": [0.5]},
    "evaluate": {"finetune": {"epochs": 2}, "knn": None},
    "search": {
        "space": {"views.overlay_alpha": [0, 0.4], "pretrain.lr": {"low": 0.1, "high": 1, "log": True}},
        "cases": {"a": {"method": "supervised"}, "b": {"views.flip": 1}, "c": None},
        "sampler": "random",
        "trials": 3,
        "seeds": 2,
    },
    "table": {"rows": "case", "columns": ["knn/top1_test"]},
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


def test_it_is_a_schema_and_plain_json() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


def test_a_valid_spec_is_valid_by_both(validator: jsonschema.Draft202012Validator, tmp_path: Path) -> None:
    validator.validate(SPEC)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    assert load_spec(path).name == "toy"


@pytest.mark.parametrize(
    "changes",
    [
        {"nme": "x"},
        {"root": "/"},
        {"name": "a b"},
        {"encoder": "resnet17"},
        {"encoder": {"name": "resnet18", "widht": 1}},
        {"method": {"name": "supervised", "width": 1}},
        {"views": {"overlay_alpha": 0.5}},
        {"pretrain": {"epochs": "3"}},
        {"pretrain": {"milestones": ["a"]}},
        {"evaluate": {}},
        {"evaluate": {"knnn": {}}},
        {"evaluate": {"knn": {"k": 0}}},
        {"data": {"source": "digits"}},
        {"search": {"space": {"views.overlay_alpha": [0.7]}}},
        {"search": {"space": {"views.auto_augment": {"low": 0, "high": 1}}}},
        {"search": {"space": {"data.image_size": [8]}}},
        {"search": {"cases": {"a": {"method": "superviced"}}}},
        {"search": {"seeds": []}},
        {"search": {"seeds": 0}},
        {"search": {"sampler": "gird"}},
        {"table": {"rows": 3}},
        {"resources": {"workers": 0}},
    ],
    ids=json.dumps,
)
def test_an_invalid_spec_is_invalid_by_both(
    validator: jsonschema.Draft202012Validator, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert not validator.is_valid(SPEC | changes)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes))
    with pytest.raises(ValueError, match=r"spec\.yaml"):
        load_spec(path)


def test_editors_see_every_knob_with_text_and_default() -> None:
    properties = json_schema()["properties"]
    overlay = properties["views"]["properties"]["overlay_alpha"]
    assert (overlay["default"], overlay["exclusiveMaximum"]) == (0.0, 0.5)
    assert "must dominate" in overlay["description"]
    assert properties["method"]["anyOf"][0]["enum"] == knobs.names("methods")
    assert list(properties["evaluate"]["properties"]) == knobs.names("evaluations")
    assert {"views.flip", "pretrain.lr", "encoder.width", "evaluate.knn.k"} <= searched_schemas().keys()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_experiment_is_valid(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    validator.validate(read_yaml(path.read_text(), str(path)).data)
    load_spec(path)
