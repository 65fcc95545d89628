"""What a plan says of the images equals what a trial then sees."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssl_sweep.data.images import AbsentDataError, DataError
from ssl_sweep.data.splits import Data, load_splits
from ssl_sweep.data.summary import summarize


@pytest.mark.parametrize(
    "fields", [{}, {"classes": ("9", "4"), "val_fraction": 0.3}, {"train_images": 100}, {"split_seed": 5}]
)
def test_the_sizes_are_those_of_the_splits(tmp_path: Path, fields: dict[str, Any]) -> None:
    data = Data(source="digits", image_size=8, **fields)
    found, splits = summarize(data, root=tmp_path), load_splits(data, root=tmp_path, cache=tmp_path)
    assert (found.train_images, found.val_images) == (len(splits.train), len(splits.val))
    assert (found.test_images, found.classes) == (len(splits.test), splits.num_classes)
    assert (found.unlabelled, found.lacking, found.warnings, found.labelled) == (0, (), (), None)


def photos(folder: Path, count: int, classes: str = "") -> None:
    for number in range(count):
        path = folder / (classes[number % len(classes)] if classes else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)


@pytest.mark.parametrize(
    "fields", [{}, {"labelled": "imagefolder:named"}, {"labelled": "imagefolder:named", "train_images": 12}]
)
def test_without_labels_too(tmp_path: Path, fields: dict[str, Any]) -> None:
    photos(tmp_path / "flat", 20)
    photos(tmp_path / "named", 30, "ab")
    data = Data(source="imagefolder:flat", image_size=8, **fields)
    found, splits = summarize(data, root=tmp_path), load_splits(data, root=tmp_path, cache=tmp_path)
    assert (found.train_images, found.classes) == (len(splits.seen), 0)
    assert found.lacking == ("train", "val", "test")
    judged = found.labelled or found
    sizes = (len(splits.val), len(splits.test), splits.num_classes)
    assert (judged.val_images, judged.test_images, judged.classes) == sizes
    if found.labelled:
        assert (found.val_images, found.test_images, found.unlabelled) == (0, 0, found.train_images)
        assert (judged.train_images, judged.lacking, judged.unlabelled) == (len(splits.train), (), 0)


def test_no_image_is_opened(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    found = summarize(Data(source="imagefolder:.", image_size=8), root=tmp_path)
    assert (found.train_images, found.val_images, found.test_images, found.classes) == (14, 2, 4, 2)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"classes": ("ten",)}, "data.classes"),
        ({"val_fraction": 1e-4}, "data.val_fraction"),
        ({"source": "imagefolder:apart"}, "data.source"),
        ({"source": "imagefolder:apart/list.csv"}, "data.source"),
        ({"source": "table:apart/list.csv"}, "data.source"),
        ({"source": "arrow:apart"}, "data.source"),
        ({"source": "webdataset:apart", "splits": {"train": "t-{0..1}.tar"}}, "data.source"),
        ({"labelled": "table:apart/list.csv"}, "data.labelled"),
    ],
)
def test_what_a_trial_would_refuse_is_refused_at_its_key(tmp_path: Path, fields: dict[str, Any], key: str) -> None:
    photos(tmp_path / "apart", 10, "ab")
    (tmp_path / "apart" / "c").mkdir()
    (tmp_path / "apart" / "list.csv").write_text("file_name,label\n../../out.png,a\n")
    (tmp_path / "apart" / "t-0.tar").write_bytes(b"")
    with pytest.raises(DataError, match=f"^{key}") as caught:
        summarize(Data(**{"source": "digits", "image_size": 8, **fields}), root=tmp_path)
    assert not isinstance(caught.value, AbsentDataError)
    assert str(caught.value).count("data.source") <= 1


@pytest.mark.parametrize("key", ["source", "labelled"])
@pytest.mark.parametrize("absent", ["imagefolder:no", "table:no.csv", "torchvision:CIFAR10", "torchvision:DTD"])
def test_absent_images_are_told_from_wrong_ones(tmp_path: Path, key: str, absent: str) -> None:
    with pytest.raises(AbsentDataError, match=f"^data.{key}: "):
        summarize(Data(**{"source": "digits", "image_size": 8, key: absent}), root=tmp_path)
