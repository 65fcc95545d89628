"""A plan says where a set looks wrong, and says nothing of a sound one."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_sweep.data.doubts import doubts
from ssl_sweep.data.splits import Data
from ssl_sweep.data.summary import summarize


def images(home: Path, *folders: str, each: int = 5) -> None:
    for folder in folders:
        for number in range(each):
            path = home / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8)).save(path)


def warnings(home: Path, **fields: object) -> tuple[str, ...]:
    data = Data(source="imagefolder:.", image_size=8, val_fraction=0.2, **fields)  # type: ignore[arg-type]
    return summarize(data, root=home).warnings


@pytest.mark.parametrize(
    ("train", "test", "classes", "expected"),
    [
        ([0, 0, 1, 1], [0, 1], "ab", []),
        ([0, 0, 1, 1, -1], [-1], "ab", []),
        ([-1, -1], [-1], "", []),
        ([0, 0], [0], "a", ["there is one class only, 'a': scores by label say nothing"]),
        ([0, 1], [0], "abc", ["3 classes for 2 labelled training images: are the labels identifiers?"]),
        (
            [0, 0, 1, 2],
            [0, 1, 2],
            "abc",
            ["2 of 3 classes have a single training image, and none to validate on, such as 'b'"],
        ),
        ([0, 0, 1, 1], [0, 0], "ab", ["class 'b' has no test image"]),
        ([0, 0, 2, 2], [0, 2], "abc", ["class 'b' has no training image"]),
        ([0, 0, 0, 0], [], "abcd", ["3 of 4 classes have no training image, such as 'b'"]),
    ],
)
def test_numbers_by_class(train: list[int], test: list[int], classes: str, expected: list[str]) -> None:
    assert doubts(torch.tensor(train), torch.tensor(test, dtype=torch.int64), tuple(classes)) == expected


def test_a_sound_folder_raises_no_doubt(tmp_path: Path) -> None:
    images(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    assert warnings(tmp_path) == ()


def test_folders_below_classes_that_are_no_splits_raise_none(tmp_path: Path) -> None:
    images(tmp_path, "a/cat/images", "a/dog/images", "b/cat/left", "b/cat/right", "b/dog/left", "b/cat", "b/dog")
    for name in "ab":
        assert warnings(tmp_path / name) == ()


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (
            ("cat/train", "cat/test", "dog/train", "dog/test"),
            "the folders cat, dog are taken for classes, and each holds test, train;",
        ),
        (("cat/Train", "dog/Train"), ""),
        (("cat/train", "dog/train"), "and each holds train;"),
        (
            ("training/cat", "training/dog", "testing/cat", "testing/dog"),
            "testing, training are taken for classes, and each holds cat, dog;",
        ),
    ],
)
def test_splits_that_are_taken_for_classes_are_doubted(tmp_path: Path, folders: tuple[str, ...], said: str) -> None:
    images(tmp_path, *folders)
    assert any(said in each for each in warnings(tmp_path))


def test_the_remedy_works(tmp_path: Path) -> None:
    images(tmp_path, "training/cat", "training/dog", "testing/cat", "testing/dog")
    assert "name them by data.splits" in warnings(tmp_path)[0]
    assert warnings(tmp_path, splits={"train": "training", "test": "testing"}) == ()


def test_chosen_classes_are_doubted_as_they_are_chosen(tmp_path: Path) -> None:
    images(tmp_path, "train/cat", "train/dog", "train/eel", "test/cat", "test/dog")
    assert warnings(tmp_path) == ("class 'eel' has no test image",)
    assert warnings(tmp_path, classes=("cat", "dog")) == ()
    assert warnings(tmp_path, classes=("cat",)) == ("there is one class only, 'cat': scores by label say nothing",)
