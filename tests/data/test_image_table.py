"""Tables of image files: the forms in which people have them, and what is said of rows that are wrong."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import ImageList, Source
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits


def files(home: Path, shades: Sequence[int] = range(20)) -> None:
    for shade in shades:
        path = home / "img" / f"{shade}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade).save(path)


def lines(home: Path, rows: Sequence[str], name: str = "index.csv") -> Path:
    (home / name).write_text("\n".join(rows) + "\n")
    return home / name


def opened(home: Path, name: str = "index.csv", **names: str) -> Source:
    return open_source(f"table:{name}", root=home, splits=names)  # type: ignore[arg-type]  # a test's own names


def shades(images: ImageList) -> list[int]:
    return [int(np.asarray(images.image(row)).max()) for row in range(len(images))]


@pytest.mark.parametrize(
    ("name", "separator", "header"),
    [
        ("a.csv", ",", ("path", "label", "split")),
        ("a.CSV", ";", ("id", "Filename", "Class", "Fold")),
        ("a.tsv", "\t", ("image", "target", "subset")),
        ("a.csv", ",", ("\ufefffile_name", "category", "set")),
    ],
)
def test_text_by_its_usual_columns(tmp_path: Path, name: str, separator: str, header: tuple[str, ...]) -> None:
    files(tmp_path)
    lead = ["x"] * (len(header) - 3)
    rows = [
        (*lead, f"img/{shade}.png", "dog" if shade % 2 else "cat", "Test" if shade > 15 else "TRAIN")
        for shade in range(20)
    ]
    (tmp_path / name).write_text("\r\n".join(separator.join(row) for row in (header, *rows, ())), encoding="utf-8")
    source = opened(tmp_path, name)
    assert source.classes == ("cat", "dog")
    assert (shades(source.train), shades(source.test)) == (list(range(16)), [16, 17, 18, 19])
    assert source.train.labels.tolist() == [0, 1] * 8


def test_parquet_with_numbers_and_paths(tmp_path: Path) -> None:
    files(tmp_path)
    table = pa.table(
        {
            "path": [f"img/{shade}.png" for shade in range(20)],
            "label": pa.array([None if shade == 3 else float(shade % 2) for shade in range(20)]),
            "fold": [shade // 4 for shade in range(20)],
        }
    )
    pq.write_table(table, tmp_path / "index.parquet")
    source = opened(tmp_path, "index.parquet", train="2", test="3")
    assert (shades(source.train), shades(source.test)) == ([8, 9, 10, 11], [12, 13, 14, 15])
    assert opened(tmp_path, "index.parquet", train="0", test="3").train.labels.tolist() == [0, 1, 0, -1]
    assert source.train.name(0) == f"{tmp_path}/index.parquet row 8: {tmp_path}/img/8.png"
    with pytest.raises(DataError, match=r"its splits are 0, 1, 2, 3, 4; name the one to train on by data.splits.train"):
        opened(tmp_path, "index.parquet")


def test_without_splits_a_fifth_is_held_out_and_labels_may_be_missing(tmp_path: Path) -> None:
    files(tmp_path)
    lines(tmp_path, ["file,label", *(f"img/{n}.png,{['', '-1', '1.0', '7'][n % 4]}" for n in range(20))])
    source = opened(tmp_path)
    assert source.classes == ("1", "7")
    found = [dict(zip(shades(images), images.labels, strict=True)) for images in (source.train, source.test)]
    labels = found[0] | found[1]
    assert [labels[shade] for shade in range(4)] == [-1, -1, 0, 1]
    lines(tmp_path, ["file", *(f"img/{n}.png" for n in range(20))])
    splits = load_splits(Data(source="table:index.csv", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    assert (len(splits.train), len(splits.val), len(splits.test), splits.num_classes) == (14, 2, 4, 0)


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        (["10", "2"], ("2", "10")),
        (["10.0", "2"], ("2", "10")),
        (["1", "01", "1.0", "-1", ""], ("01", "1", "1.0")),
        (["01", "02", "10"], ("01", "02", "10")),
        (["1", "one"], ("1", "one")),
        (["20", "22", "21"], ("20", "21", "22")),
        (["1", "2", "nan", "NA", "None", "null"], ("1", "2")),
        (["cat", "none"], ("cat", "none")),
    ],
)
def test_labels_are_numbers_only_if_all_are(tmp_path: Path, written: list[str], classes: tuple[str, ...]) -> None:
    files(tmp_path)
    rows = [f"img/{n}.png,{label},{split}" for n, label in enumerate(written) for split in ("train", "test")]
    lines(tmp_path, ["path,label,split", *rows])
    source = opened(tmp_path)
    assert source.classes == classes
    named = [source.classes[label] if label >= 0 else "" for label in source.test.labels]
    assert named == [name if name in classes else "" for name in (label.replace("10.0", "10") for label in written)]


def test_a_word_that_may_be_a_class_or_no_label_is_refused(tmp_path: Path) -> None:
    files(tmp_path)
    lines(tmp_path, ["path,label", "img/1.png,cat", "img/2.png,NaN"])
    with pytest.raises(DataError, match=r"index.csv:3: label 'NaN' may be a class or no label, beside 'cat'; leave it"):
        _ = opened(tmp_path).contents


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 0.5], r"index.parquet row 1: column 'label' of type double has 0.5; a label is a whole number"),
        ([[0], [1]], r"index.parquet row 0: column 'label' is of type list<.*>; a label is a whole number or a class"),
    ],
)
def test_labels_of_another_type_are_refused(tmp_path: Path, labels: list[object], message: str) -> None:
    files(tmp_path)
    pq.write_table(pa.table({"path": ["img/1.png", "img/2.png"], "label": labels}), tmp_path / "index.parquet")
    with pytest.raises(DataError, match=message):
        opened(tmp_path, "index.parquet")


def test_a_missing_file_is_named_with_its_row(tmp_path: Path) -> None:
    files(tmp_path)
    lines(tmp_path, ["path,label", *(f"img/{n}.png,{n % 2}" for n in range(20)), "", "img/gone.png,1"])
    assert opened(tmp_path).notes == (
        f"1 of 21 files missing; the first is {tmp_path}/index.csv:23: {tmp_path}/img/gone.png",
    )
    with pytest.raises(DataError, match=r"index.csv:23: .*/img/gone.png: not a readable image \(.*No such file"):
        load_splits(Data(source="table:index.csv", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    data = Data(source="table:index.csv", image_size=8, on_error="skip")
    splits = load_splits(data, root=tmp_path, cache=tmp_path / "cache")
    assert len((*splits.train.skipped, *splits.test.skipped)) == 1


def test_paths_stay_below_the_table_or_the_root(tmp_path: Path) -> None:
    home = tmp_path / "root/tables"
    files(tmp_path / "root")
    home.mkdir()
    for written in ("../img/{}.png", str(tmp_path / "root/img/{}.png")):
        lines(home, ["path", *(written.format(n) for n in range(20))])
        assert len(open_source("table:tables/index.csv", root=tmp_path / "root").train) == 16
        with pytest.raises(
            DataError,
            match=rf"index.csv:2: its path '.*' leads out of .*tables; set SSL_SWEEP_DATA={tmp_path}/root, or",
        ):
            open_source(f"table:{home}/index.csv", root=tmp_path / "elsewhere")
    lines(home, ["path", "/etc/passwd"])
    with pytest.raises(DataError, match="its path '/etc/passwd' leads out of"):
        open_source("table:tables/index.csv", root=tmp_path / "root")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([""], "no column of image files among none; write a line of names first"),
        (["img/1.png,0", "img/2.png,1"], "no column of image files among img/1.png, 0; write a line of names first"),
        (["path,label"], "index.csv: lists no images"),
        (["path,label", ",1"], "index.csv:2: names no file"),
        (["path,label", "img/1.png,1", "img/2,b.png,0"], "index.csv:3: has 3 values, and the header has 2"),
        (["path,label", "img/1.png"], "index.csv:2: has 1 values, and the header has 2"),
        (
            ["path", "gone.png", "lost.png"],
            r"index.csv:2: .*gone.png is missing, as is every other file; paths start at",
        ),
        (["path,split", "img/1.png,train", "img/2.png,"], None),
        (["path,label", '"img/1.png,1'], "index.csv: not a readable table"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path: Path, rows: list[str], message: str | None) -> None:
    files(tmp_path)
    lines(tmp_path, rows)
    if message is None:
        assert shades(opened(tmp_path).train) == [1]
        return
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_a_table_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(DataError, match=r"index.csv: not a readable table \(.*utf-8"):
        opened(tmp_path)
    files(tmp_path)
    lines(tmp_path, ["path", "img/1.png"])
    with pytest.raises(DataError, match=r"data.splits: .*index.csv has no column of splits"):
        opened(tmp_path, train="a")


@pytest.mark.parametrize(
    ("argument", "message"),
    [("gone.csv", "is no file; name a .csv"), ("notes.txt", "is no table"), (".", "is no file")],
)
def test_what_is_no_table_is_answered(tmp_path: Path, argument: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("path\n")
    with pytest.raises(DataError, match=message):
        opened(tmp_path, argument)


def test_a_label_of_test_that_train_lacks_and_images_in_both_are_named(tmp_path: Path) -> None:
    files(tmp_path)
    lines(tmp_path, ["path,label,split", "img/1.png,a,train", "img/1.png,a,test"])
    assert opened(tmp_path).notes == (f"1 images are in train and in test, such as {tmp_path}/img/1.png",)
    lines(tmp_path, ["path,label,split", "img/1.png,a,train", "img/2.png,b,test"])
    with pytest.raises(DataError, match=r"index.csv:3: .*img/2.png: label 'b' is none of the 1 classes"):
        _ = opened(tmp_path).contents


def test_a_file_counts_once_and_has_one_label(tmp_path: Path) -> None:
    files(tmp_path)
    once = [f"img/{n}.png,{n % 2}" for n in range(20)]
    lines(tmp_path, ["path,label", *once, *(row.replace("img/", "./img/") for row in once[:5])])
    source = opened(tmp_path)
    assert source.notes == (f"5 rows repeat an earlier one and are left out; see {tmp_path}/index.csv:22",)
    assert sorted(shades(source.train) + shades(source.test)) == list(range(20))
    lines(tmp_path, ["path,label", *once, "img/3.png,0"])
    with pytest.raises(DataError, match=r"index.csv:22: .*3.png has the label '0' here and '1' at .*index.csv:5; keep"):
        opened(tmp_path)
    lines(tmp_path, ["path,label,split", "img/1.png,a,train", "img/2.png,b,train", "img/1.png,b,test"])
    with pytest.raises(DataError, match=r"index.csv:4: .*1.png has the label 'b' here and 'a' at .*index.csv:2"):
        opened(tmp_path)


def test_rows_without_a_split_are_counted(tmp_path: Path) -> None:
    files(tmp_path)
    lines(tmp_path, ["path,split", "img/1.png,train", "img/2.png,", "img/3.png,", "img/4.png,test"])
    assert opened(tmp_path).notes == (f"2 of 4 rows have no split and are not read; see {tmp_path}/index.csv:3",)


def test_the_fingerprint_follows_the_table_and_its_images(tmp_path: Path) -> None:
    files(tmp_path)
    lines(tmp_path, ["path,label", *(f"img/{n}.png,{n % 2}" for n in range(20))])
    first = opened(tmp_path).fingerprint
    assert first == opened(tmp_path).fingerprint
    files(tmp_path, [3])
    second = opened(tmp_path).fingerprint
    lines(tmp_path, ["path,label", *(f"img/{n}.png,{1 - n % 2}" for n in range(20))])
    assert len({json.dumps(each) for each in (first, second, opened(tmp_path).fingerprint)}) == 3


@pytest.mark.parametrize(
    "header", ["path,label,label", "path,Label,label ", "file,split,label,Split", "path,Path,label"]
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, header: str) -> None:
    names = header.split(",")
    (tmp_path / "index.csv").write_text(f"{header}\n{','.join('x' for _ in names)}\n")
    pq.write_table(pa.table([["x"]] * len(names), names=names), tmp_path / "index.parquet")
    for file in ("index.csv", "index.parquet"):
        with pytest.raises(DataError, match=rf"{file}: has columns '\w+' and '\w+ ?'; rename or remove the one not"):
            open_source(f"table:{file}", root=tmp_path)
