"""Columns of images and labels in Parquet and Arrow files: their types, their class names, and files that differ."""

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits

Write = Callable[[Path, pa.Table], None]


def png(shade: int) -> bytes:
    buffer = BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "png")
    return buffer.getvalue()


def table(labels: Any, names: Sequence[str] | None = None, **columns: Any) -> pa.Table:
    """Images of shades 0, 1, ... with these labels; None makes no column of labels."""
    count = len(labels) if labels is not None else 2
    columns = {"image": pa.array([png(shade) for shade in range(count)]), **columns}
    if labels is not None:
        columns["label"] = labels
    made = pa.table(columns)
    if names:
        features = {"label": {"_type": "ClassLabel", "names": list(names)}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return made


def parquet(home: Path, split: str, *shards: pa.Table) -> None:
    home.mkdir(exist_ok=True)
    for number, shard in enumerate(shards):
        pq.write_table(shard, home / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")


def arrow(home: Path, split: str, *shards: pa.Table) -> None:
    (home / split).mkdir(parents=True)
    names = [f"data-{number}.arrow" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pa.OSFile(str(home / split / name), "wb") as sink, pa.ipc.new_stream(sink, shard.schema) as writer:
            writer.write_table(shard)
    (home / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def read(home: Path) -> Contents:
    kind = "parquet" if list(home.glob("*.parquet")) else "arrow"
    return open_source(f"{kind}:{home}", root=home).contents


@pytest.fixture(params=[parquet, arrow])
def write(request: pytest.FixtureRequest) -> Any:
    return request.param


# class names


def test_shards_and_splits_with_the_same_names_in_another_order(tmp_path: Path, write: Any) -> None:
    write(tmp_path, "train", table([0, 1, 1], ["cat", "dog"]), table([0, 1], ["dog", "cat"]))
    write(tmp_path, "test", table([0, 0, 0, 1], ["dog", "cat"]))
    train, test, classes = read(tmp_path)
    assert classes == ("cat", "dog")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 1, 1, 0], [1, 1, 1, 0])


def test_names_count_in_whichever_file_they_are(tmp_path: Path, write: Any) -> None:
    write(tmp_path, "train", table([0, 1]), table([0, 1], ["dog", "cat"]))
    write(tmp_path, "test", table([0, 0, 1], ["cat", "dog"]))
    train, test, classes = read(tmp_path)
    assert classes == ("dog", "cat")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 0, 1], [1, 1, 0])


@pytest.mark.parametrize(("labels", "numbers"), [([0, 1, 1], [0, 1, 1]), (["dog", "cat", "cat"], [0, 1, 1])])
def test_names_in_test_alone(tmp_path: Path, write: Any, labels: list[object], numbers: list[int]) -> None:
    write(tmp_path, "train", table(labels))
    write(tmp_path, "test", table([1, 0], ["dog", "cat"]))
    train, test, classes = read(tmp_path)
    assert classes == ("dog", "cat")
    assert (train.labels.tolist(), test.labels.tolist()) == (numbers, [1, 0])


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_with_other_names_are_both_named(tmp_path: Path, write: Any, split: str) -> None:
    others = {"train": [table([0, 1], ["cat", "dog"])], "test": [table([0, 1], ["cat", "dog"])]}
    others[split].append(table([0, 1], ["cat", "cow"]))
    for name, shards in others.items():
        write(tmp_path, name, *shards)
    with pytest.raises(DataError, match=rf"{split}.*1.*: has a class 'cow' that .*train.*0.* lacks"):
        read(tmp_path)


def test_one_name_of_two_numbers_keeps_them_apart_unless_the_order_differs(tmp_path: Path, write: Any) -> None:
    crane = ["crane", "ox", "crane"]  # ImageNet's bird and machine
    write(tmp_path / "a", "train", table([0, 1, 2], crane))
    write(tmp_path / "a", "test", table([2], crane))
    assert read(tmp_path / "a").train.labels.tolist() == [0, 1, 2]
    write(tmp_path / "b", "train", table([0, 1, 2], crane))
    write(tmp_path / "b", "test", table([2], sorted(crane)))
    with pytest.raises(DataError, match=r"test.*: names a class twice, and in another order than .*train"):
        read(tmp_path / "b")


@pytest.mark.parametrize("written", ["{", "[]", '{"info": {"features": [1]}}', '{"info": {"features": 3}}'])
def test_metadata_that_are_damaged(tmp_path: Path, write: Any, written: str) -> None:
    write(tmp_path, "train", table([0, 1]).replace_schema_metadata({"huggingface": written}))
    with pytest.raises(DataError, match=r"train.*: its class names, in the metadata, cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "value"),
    [([1, 2], "1"), ([None, "a"], "None"), ([["a"], "b"], r"\['a'\]"), ("ab", "'ab'"), (5, "5")],
)
def test_class_names_that_are_no_texts(tmp_path: Path, write: Any, names: Any, value: str) -> None:
    features = {"label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    write(tmp_path, "train", table([0, 1]).replace_schema_metadata(metadata))
    with pytest.raises(DataError, match=rf"train.*: the class names of column 'label', .* have {value}, and must be"):
        read(tmp_path)


def test_class_names_of_a_column_that_is_not_there(tmp_path: Path, write: Any) -> None:
    for split in ("train", "test"):
        named = table([0, 1], ["x", "y"])
        write(
            tmp_path, split, named.rename_columns([{"label": "number"}.get(name, name) for name in named.column_names])
        )
    found = read(tmp_path)
    assert (found.train.labels.tolist(), found.classes) == ([-1, -1], ())


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    once = table([0, 1])
    parquet(tmp_path / "a", "train", once.append_column("label", pa.array([1, 0])))
    with pytest.raises(DataError, match=r"train.*: has 2 columns 'label'; rename"):
        read(tmp_path / "a")
    parquet(tmp_path / "b", "train", once.append_column("image", once.column("image")))
    with pytest.raises(DataError, match=r"train.*: has 2 columns 'image'; rename"):
        read(tmp_path / "b")
    for split in ("train", "test"):
        parquet(
            tmp_path / "c",
            split,
            once.append_column("width", pa.array([1, 0])).append_column("width", pa.array([1, 0])),
        )
    assert read(tmp_path / "c").train.labels.tolist() == [0, 1]


def test_columns_in_any_case_where_none_has_the_usual_one(tmp_path: Path, write: Any) -> None:
    def of(**labels: list[int]) -> pa.Table:
        images = table([0, 1]).column("image")
        return pa.table({"Image": images, "masks": images, **{name: pa.array(each) for name, each in labels.items()}})

    for split in ("train", "test"):
        write(tmp_path / "a", split, of(Label=[7, 5]))
        write(tmp_path / "b", split, of(Label=[7, 5], target=[1, 2]))
    assert read(tmp_path / "a").classes == ("5", "7")
    assert read(tmp_path / "b").classes == ("1", "2")
    write(tmp_path / "c", "train", of(Label=[7, 5], LABEL=[5, 7]))
    with pytest.raises(DataError, match=r"train.*: has columns 'Label' and 'LABEL'; rename the one not to use"):
        read(tmp_path / "c")


# labels


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (pa.array([22, 20, 21, 20], pa.uint8()), [2, 0, 1, 0], ("20", "21", "22")),
        (pa.array([3.0, 1.0, None, 1.0], pa.float16()), [1, 0, -1, 0], ("1", "3")),
        (pa.array([True, False, None, True]), [1, 0, -1, 1], ("0", "1")),
        (pa.array(["b", "a", None, "b"], pa.large_string()), [1, 0, -1, 1], ("a", "b")),
        (pa.array(["b", "a", "", "b"], pa.string_view()), [1, 0, -1, 1], ("a", "b")),
        (pa.array(["b", "a", None, "b"]).dictionary_encode(), [1, 0, -1, 1], ("a", "b")),
        (pa.array([7, 5, None, 7]).dictionary_encode(), [1, 0, -1, 1], ("5", "7")),
        (pa.array(["2", "1", "nan", "NA"]), [1, 0, -1, -1], ("1", "2")),
        (pa.array(["b", "-1", "a", "b"]), [1, -1, 0, 1], ("a", "b")),
        (pa.array(["10", "-1", "9", "10"]), [1, -1, 0, 1], ("9", "10")),
        (pa.array(["1", "01", "-1", "1"]), [1, 0, -1, 1], ("01", "1")),
    ],
)
def test_labels_of_every_type(tmp_path: Path, labels: pa.Array, numbers: list[int], classes: tuple[str, ...]) -> None:
    parquet(tmp_path, "train", table(labels))
    parquet(tmp_path, "test", table(labels[:1]))
    found = read(tmp_path)
    assert (found.train.labels.tolist(), found.classes) == (numbers, classes)


@pytest.mark.parametrize("others", [[2, 1, -1], [2.0, 1.0, None], ["2.0", "1.0", ""]])
def test_numbers_are_the_same_classes_as_texts(tmp_path: Path, write: Any, others: list[Any]) -> None:
    write(tmp_path / "a", "train", table(["1.0", "2.0", "-1"]))
    write(tmp_path / "a", "test", table(others))
    write(tmp_path / "b", "train", table(others))
    write(tmp_path / "b", "test", table(["1.0", "2.0", "-1"]))
    for home, train, test in (("a", [0, 1, -1], [1, 0, -1]), ("b", [1, 0, -1], [0, 1, -1])):
        found = read(tmp_path / home)
        assert found.classes == ("1", "2")
        assert (found.train.labels.tolist(), found.test.labels.tolist()) == (train, test)


def test_a_text_of_a_set_with_class_names_is_a_name(tmp_path: Path, write: Any) -> None:
    write(tmp_path, "train", table([0, 1, -1], ["7", "1"]))
    write(tmp_path, "test", table(["1", "7", "-1"]))
    found = read(tmp_path)
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 1, -1], [1, 0, -1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, 0.5], r"row 1: column 'label' of type double has 0.5; a label is a whole number"),
        ([1.0, float("inf")], r"row 1: column 'label' of type double has inf"),
        ([[1], [2]], "column 'label' is of type list"),
        ([{"a": 1}, {"a": 2}], "column 'label' is of type struct"),
        (pa.array([1, 2], pa.decimal128(3)), "column 'label' is of type decimal128"),
        (pa.array([1, 2], pa.date32()), "column 'label' is of type date32"),
        ([b"a", b"b"], "column 'label' is of type binary"),
        (["cat", "NA"], r"row 1: label 'NA' may be a class or no label, beside 'cat'; leave it empty"),
    ],
)
def test_other_labels_are_refused_by_file_row_and_type(tmp_path: Path, write: Any, labels: Any, message: str) -> None:
    write(tmp_path, "train", table(labels))
    with pytest.raises(DataError, match=rf"train.* {message}|train.*: {message}"):
        read(tmp_path)


# files that differ


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            table(None),
            r"its columns are image, but the columns of .*0.* are 'image' and 'label'; write the files alike",
        ),
        (table([0, 1]).rename_columns(["image", "target"]), "its columns are image, target, but the columns of"),
        (table([0, 1]).drop_columns("image"), "no image column"),
        (table([0, 1], image=pa.array([1, 2])), "no image column"),
        (table(["0", "1"]), "column 'label' is of type string, and of type int64 in "),
    ],
)
def test_a_shard_that_differs_from_the_first_is_named(
    tmp_path: Path, write: Any, second: pa.Table, message: str
) -> None:
    write(tmp_path, "train", table([0, 1]), second)
    with pytest.raises(DataError, match=rf"1.*: {message}"):
        read(tmp_path)


def test_a_shard_of_labels_alone_missing_is_read(tmp_path: Path, write: Any) -> None:
    write(tmp_path, "train", table(["a", "b"]), table(pa.nulls(2)))
    write(tmp_path, "test", table(["b"]))
    assert read(tmp_path).train.labels.tolist() == [0, 1, -1, -1]


def test_a_shard_without_columns_is_named(tmp_path: Path, write: Any) -> None:
    write(tmp_path, "train", table([0, 1]), pa.table({}))
    with pytest.raises(DataError, match=r"1.*: no image column"):
        read(tmp_path)


# images


@pytest.mark.parametrize(
    "column",
    [
        lambda images: pa.array(images, pa.large_binary()),
        lambda images: pa.array(images, pa.binary_view()),
        lambda images: pa.array(images).dictionary_encode(),
        lambda images: pa.array([{"bytes": image, "path": None} for image in images]),
        lambda images: pa.array([{"bytes": image} for image in images], pa.struct([("bytes", pa.large_binary())])),
        lambda images: pa.array([{"bytes": image} for image in images], pa.struct([("bytes", pa.binary_view())])),
    ],
)
def test_images_of_every_type(tmp_path: Path, write: Any, column: Callable[[list[bytes]], pa.Array]) -> None:
    write(tmp_path, "train", table([0, 1, 0], image=column([png(shade) for shade in (10, 20, 10)])))
    write(tmp_path, "test", table([0], image=column([png(30)])))
    train, test, _ = read(tmp_path)
    shades = [int(np.asarray(images.image(row)).max()) for images in (train, test) for row in range(len(images))]
    assert shades == [10, 20, 10, 30]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bytes": None, "path": None}, "the row holds no image bytes"),
        ({"bytes": None, "path": "gone.png"}, "No such file"),
        ({"bytes": None, "path": "../x.png"}, "leads out of"),
        ({"bytes": b"", "path": None}, "0 bytes"),
        ({"bytes": b"<html>", "path": None}, "cannot identify image file"),
    ],
)
def test_a_row_without_its_image_is_named_by_file_and_row(
    tmp_path: Path, write: Any, row: dict[str, object], message: str
) -> None:
    rows = [row if number == 3 else {"bytes": png(number), "path": None} for number in range(10)]
    write(tmp_path / "set", "train", table([0] * 10, image=pa.array(rows)))
    write(tmp_path / "set", "test", table([0]))
    kind = "parquet" if list((tmp_path / "set").glob("*.parquet")) else "arrow"
    data = Data(source=f"{kind}:set", image_size=8, val_fraction=0.3)
    with pytest.raises(DataError, match=rf"train.* row 3: not a readable image \(.*{message}"):
        load_splits(data, root=tmp_path, cache=tmp_path / "cache")


def test_a_string_in_the_place_of_bytes_is_no_path_to_open(tmp_path: Path, write: Any) -> None:
    write(tmp_path, "train", table([0], image=pa.array([{"bytes": "/etc/passwd"}])))
    with pytest.raises(DataError, match=r"no image column \(binary, or a struct with binary 'bytes'\)"):
        read(tmp_path)


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        parquet(tmp_path / "set", split, table([0, 1] * 10))
    path = tmp_path / "set/train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    data = Data(source="parquet:set", image_size=8)
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet.*not a readable Parquet file"):
        load_splits(data, root=tmp_path, cache=tmp_path / "cache")
