"""A plan opens all images that run would open: those of evaluations too."""

import json
from pathlib import Path
from typing import Any

import pytest

import ssl_sweep
from ssl_sweep.data.images import DataError


def spec(**evaluations: Any) -> dict[str, Any]:
    data = {"source": "digits", "image_size": 8}
    encoder = {"name": "resnet18", "width": 8}
    return {
        "name": "sources",
        "data": data,
        "encoder": encoder,
        "method": "simclr",
        "evaluate": {"knn": {}, **evaluations},
    }


@pytest.mark.parametrize("kind", ["transfer", "detection"])
def test_images_of_an_evaluation_that_are_not_here_are_noted(tmp_path: Path, kind: str) -> None:
    knobs = {"transfer": {"sources": [f"parquet:{tmp_path}/gone"]}, "detection": {"source": f"voc:{tmp_path}/gone"}}
    notes = [note for note in ssl_sweep.plan(spec(**{kind: knobs[kind]}))["warnings"] if "not here" in note]
    assert len(notes) == 1
    assert f"images of an evaluation are not here: evaluate.{kind}" in notes[0]


def test_a_plan_is_json() -> None:
    planned = json.loads(json.dumps(ssl_sweep.plan(spec(), ["data.labelled=digits"])))
    assert (planned["data"]["train_images"], planned["data"]["labelled"]["train_images"]) == (1797, 1294)


def test_damaged_images_of_an_evaluation_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"evaluate\.transfer: .*train\.parquet: not a readable .*git lfs pull"):
        ssl_sweep.plan(spec(transfer={"sources": [f"parquet:{tmp_path}"]}))
    with pytest.raises(DataError, match=r"evaluate\.detection\.source: no VOC folder is in"):
        ssl_sweep.plan(spec(detection={"source": f"voc:{tmp_path}"}))
