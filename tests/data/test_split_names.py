"""Which folders and files are train and test: by their usual names in any case, or by `data.splits`."""

import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Source
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits
from ssl_sweep.data.summary import summarize
from ssl_sweep.trial.stage_keys import stage_key


def folders(home: Path, *names: str) -> None:
    """An image folder: DIR/NAME/cat and DIR/NAME/dog of two images each."""
    for name in names:
        for index in range(4):
            path = home / name / ("cat", "dog")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), index).save(path)


def shards(home: Path, sizes: Mapping[str, int]) -> None:
    """Parquet files of these names and numbers of rows."""
    for name, rows in sizes.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": pa.array([b"x"] * rows, pa.binary()), "label": [row % 2 for row in range(rows)]})
        pq.write_table(table, home / f"{name}.parquet")


def opened(kind: str, home: Path, names: Mapping[str, str] | None = None) -> Source:
    return open_source(f"{kind}:{home}", root=home, splits=names)  # type: ignore[arg-type]  # a test's own names


def homes(source: Source) -> tuple[str, str]:
    """The folders of the first image of train and of test, two above it."""
    return tuple(Path(images.name(0)).parts[-3] for images in (source.train, source.test))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("Train", "Test"), ("Train", "Test")),
        (("TRAIN", "VAL"), ("TRAIN", "VAL")),
        (("train", "validation"), ("train", "validation")),
        (("train", "Valid"), ("train", "Valid")),
        (("train", "val", "test"), ("train", "test")),
    ],
)
def test_usual_folders_in_any_case(tmp_path: Path, there: tuple[str, ...], expected: tuple[str, str]) -> None:
    folders(tmp_path, *there)
    source = opened("imagefolder", tmp_path)
    assert (homes(source), source.classes) == (expected, ("cat", "dog"))


def test_a_plan_says_what_stands_in_for_test_and_what_is_not_read(tmp_path: Path) -> None:
    data = Data(source="imagefolder:.", image_size=8, val_fraction=0.5)
    folders(tmp_path, "train", "val")
    assert "there is no test split; val serves as test" in summarize(data, root=tmp_path).warnings
    folders(tmp_path, "test", "extra")
    notes = summarize(data, root=tmp_path).warnings
    assert "extra, val are not read; validation images are split off train" in notes
    assert not any("serves as test" in note for note in notes)


def test_imagenets_layout_tests_on_val_though_there_are_test_images_without_labels(tmp_path: Path) -> None:
    folders(tmp_path, "train", "val")
    (tmp_path / "test").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "test/1.png")
    source = opened("imagefolder", tmp_path)
    assert (homes(source), source.test.labels.tolist()) == (("train", "val"), [0, 0, 1, 1])
    assert source.notes == ("test has no class folders and is not read; val serves as test",)
    assert opened("imagefolder", tmp_path, {"test": "test"}).test.labels.tolist() == [-1]


def test_folders_by_knob(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b", "train", "test")
    assert homes(opened("imagefolder", tmp_path, {"train": "a", "test": "B"})) == ("a", "b")
    assert homes(opened("imagefolder", tmp_path, {"train": "a"})) == ("a", "test")
    assert homes(opened("imagefolder", tmp_path, {"test": "b"})) == ("train", "b")
    assert homes(opened("imagefolder", tmp_path, {"train": "test"})) == ("test", "test")  # a fifth is held out
    prints = [opened("imagefolder", tmp_path, names).fingerprint for names in (None, {"train": "a"}, {"test": "a"})]
    assert len({str(each) for each in prints}) == 3


@pytest.mark.parametrize(
    ("there", "names", "message"),
    [
        (("a", "b"), {"train": "c"}, r"data.splits.train: .* has no 'c'; there are a, b"),
        (("train", "a"), {"test": "train"}, r"train/ is the test split, and there is no train/"),
        (("a", "b"), {"train": "a", "test": "a"}, "train and test are both 'a'"),
        (("Train", "TRAIN"), None, "has TRAIN and Train; name the one to read by data.splits"),
    ],
)
def test_wrong_names_are_answered(
    tmp_path: Path, there: tuple[str, ...], names: dict[str, str] | None, message: str
) -> None:
    folders(tmp_path, *there)
    with pytest.raises(DataError, match=message):
        opened("imagefolder", tmp_path, names)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("Train", "bus", "car"):
        for index in range(10):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (8, 8), index).save(tmp_path / name / f"{index}.png")
    source = opened("imagefolder", tmp_path)
    assert source.classes == ("Train", "bus", "car")
    assert "Train has no class folders and is taken for a class" in source.notes[0]
    assert opened("imagefolder", tmp_path, {"train": "Train"}).classes == ()


def test_a_split_folder_alone_is_no_class_and_makes_a_pack_of_its_own(tmp_path: Path) -> None:
    folders(tmp_path / "a", "Train")
    source = opened("imagefolder", tmp_path / "a")
    assert source.classes == ("cat", "dog")
    assert source.fingerprint["splits"] == "Train/None"  # before, the same files were the class Train


def rows(source: Source) -> tuple[int, int]:
    return len(source.train), len(source.test)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"train": 20, "train_small": 8, "test": 10, "test_hard": 4}, (20, 10)),
        ({"train-2023": 4, "train-2024": 6, "test": 2}, (10, 2)),
        ({"train-00000-of-00002-0a1b2c3d4e5f6789": 4, "train-00001-of-00002-9f8e7d6c5b4a3210": 2, "test": 2}, (6, 2)),
        ({"train/0000": 4, "train/0001": 2, "val/0000": 2}, (6, 2)),
        ({"Train": 4, "VALIDATION": 2}, (4, 2)),
        ({"imagenet-train-0": 4, "imagenet-train-1": 2, "imagenet-val-0": 2}, (6, 2)),
        ({"train_part1": 4, "train_part2": 2, "test": 2}, (6, 2)),
        ({"train/test-like-0": 4, "train/b-0": 4, "test/0": 2}, (8, 2)),
    ],
)
def test_shards_by_name(tmp_path: Path, sizes: dict[str, int], expected: tuple[int, int]) -> None:
    shards(tmp_path, sizes)
    assert rows(opened("parquet", tmp_path)) == expected


def test_names_of_many_digits_are_read_soon(tmp_path: Path) -> None:
    shards(tmp_path, {"1" * 200 + "x": 2, "train-" + "0_" * 60 + "1": 20})
    began = time.monotonic()
    assert rows(opened("parquet", tmp_path)) == (16, 4)
    assert time.monotonic() - began < 10


def test_a_folder_called_test_does_not_make_its_train_shard_the_test_split(tmp_path: Path) -> None:
    shards(tmp_path / "test", {"train": 20})
    assert rows(opened("parquet", tmp_path / "test")) == (16, 4)


def test_shards_by_knob(tmp_path: Path) -> None:
    shards(tmp_path, {"train": 20, "train_small": 8, "test": 10, "test_hard": 4, "a-000": 3, "a-001": 5, "a-002": 7})
    assert rows(opened("parquet", tmp_path, {"train": "train_small", "test": "test_hard"})) == (8, 4)
    assert rows(opened("parquet", tmp_path, {"train": "a"})) == (15, 10)
    assert rows(opened("parquet", tmp_path, {"train": "a-001"})) == (5, 10)
    assert rows(opened("parquet", tmp_path, {"train": "a-{000..001}", "test": "a-002.parquet"})) == (8, 7)
    assert opened("parquet", tmp_path).notes == (
        "a, test_hard, train_small are not read; validation images are split off train",
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"train": "a-{000..004}"}, r"a-003.parquet is missing"),
        ({"train": "a-{0..999999999}"}, "names over 100,000 shards"),
        ({"train": "nothing"}, "has no 'nothing'; there are a, b-train, train-b"),
        (None, r"b-train and train-b could each be the train split; say which one by data.splits: {train: b-train}"),
    ],
)
def test_wrong_shards_are_named(tmp_path: Path, names: dict[str, str] | None, message: str) -> None:
    shards(tmp_path, {"a-000": 2, "a-001": 2, "a-002": 2, "train-b": 2, "b-train": 2})
    with pytest.raises(DataError, match=message):
        opened("parquet", tmp_path, names)


@pytest.mark.parametrize("source", ["digits", "torchvision:CIFAR10"])
def test_a_set_without_folders_has_no_splits_to_name(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"data.splits: .* has no folders or files to name; remove it"):
        open_source(source, root=tmp_path, splits={"train": "a"})


def test_a_trial_opens_the_named_folders(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b")
    data = Data(source="imagefolder:.", image_size=8, val_fraction=0.5, splits={"train": "a", "test": "b"})
    splits = load_splits(data, root=tmp_path, cache=tmp_path / "cache")
    assert (len(splits.train), len(splits.val), len(splits.test), splits.num_classes) == (2, 2, 4, 2)
    assert hash(data) == hash(Data(source="imagefolder:.", image_size=8, val_fraction=0.5))  # a trial's are cached


def test_the_names_are_in_the_key_of_a_stage_only_where_they_are_set() -> None:
    named = {"encoder": {"name": "resnet18"}, "method": {"name": "simclr"}}
    config = {**named, "views": {}, "pretrain": {}, "seed": 0, "health": {}}
    keys = [
        stage_key({**config, "data": {"source": "digits", **more}}, "pretrain", "fp32")
        for more in ({}, {"splits": None}, {"splits": {"train": "a"}}, {"splits": {"train": "b"}})
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
