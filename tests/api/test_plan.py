"""A plan opens all images that run would open: those of evaluations too."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

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


def torchvisions_share(height: int, width: int) -> float:
    """Percent of torchvision's crops from a fifth of the area on that have fewer than 16 x 16 pixels."""
    crop, image = v2.RandomResizedCrop(1, scale=(0.2, 1.0)), torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [crop.make_params([image]) for _ in range(1500)]
    return 100 * sum(each["height"] * each["width"] < 256 for each in drawn) / len(drawn)


def test_a_plan_says_what_share_of_the_crops_is_enlarged(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for row in range(8):
            path = tmp_path / split / str(row % 2) / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30)).save(path)
    data = {"source": f"imagefolder:{tmp_path}", "image_size": 16, "val_fraction": 0.5}
    views = {"recipe": "none", "crop_scale_min": 0.2}
    for short_side, sides in ((None, (30, 40)), (18, (18, 24))):
        planned = ssl_sweep.plan({**spec(), "data": {**data, "short_side": short_side}, "views": views})
        assert planned["enlarged"]["simclr"] == pytest.approx(torchvisions_share(*sides), abs=4)
    shrunk = planned
    gone = ssl_sweep.plan({**spec(), "data": {**data, "source": "imagefolder:gone", "short_side": 18}, "views": views})
    assert gone["enlarged"] == shrunk["enlarged"]  # a photograph has sides as 4 to 3
    both = {"space": {"views.crop_scale_min": [0.2, 0.9]}}
    assert set(ssl_sweep.plan({**spec(), "data": data, "search": both})["enlarged"]) == {
        "simclr, crop_scale_min 0.2", "simclr, crop_scale_min 0.9",
    }  # fmt: skip
