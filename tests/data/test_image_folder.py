"""Image folders as people have them: what operating systems leave in them, names that look alike, and wrong depths."""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_sweep.data.identity import identity
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Source
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data
from ssl_sweep.data.summary import summarize

PATHS = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def images(home: Path, *folders: str, count: int = 5) -> Path:
    for folder in folders:
        (home / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("L", (8, 8), number).save(home / folder / f"{number}.png")
    return home


def opened(home: Path) -> Source:
    return open_source(f"imagefolder:{home}", root=home)


def refused(home: Path) -> str:
    with pytest.raises(DataError) as caught:
        _ = opened(home).contents
    return str(caught.value)


def test_what_systems_leave_among_images_is_not_read(tmp_path: Path) -> None:
    images(tmp_path, "Train/cat", "Train/dog", "Test/cat", "Test/dog")
    images(tmp_path, "Train/cat/@eaDir/1.png", "Train/__MACOSX/cat", "__MACOSX/Train/cat", "Test/.ipynb_checkpoints")
    for name in ("._1.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        for folder in ("", "Train", "Train/cat", "Test/dog"):
            (tmp_path / folder / name).write_bytes(b"\0\5\x16\7")
    source = opened(tmp_path)
    assert source.classes == ("cat", "dog")
    assert (len(source.train), len(source.test), source.notes) == (10, 10, ())


def test_a_pipe_is_no_image_and_is_never_opened(tmp_path: Path) -> None:
    images(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    before = identity(opened(tmp_path))
    os.mkfifo(tmp_path / "train/cat/9.png")
    (tmp_path / "train/dog/null.png").symlink_to(os.devnull)
    source = opened(tmp_path)
    assert (len(source.train), len(source.test)) == (10, 10)
    assert identity(source) == before
    (tmp_path / "linked").mkdir()
    (tmp_path / "test/dog/9.png").symlink_to(tmp_path / "train/dog/1.png")
    assert len(opened(tmp_path).test) == 11


def test_a_pipe_that_a_table_or_a_row_names_is_refused(tmp_path: Path) -> None:
    images(tmp_path, "cat")
    os.mkfifo(tmp_path / "cat/9.png")
    (tmp_path / "index.csv").write_text("path,label\ncat/1.png,a\ncat/9.png,a\n")
    with pytest.raises(DataError, match=r"cat/9\.png: is a pipe"):
        open_source("table:index.csv", root=tmp_path)
    rows = [{"bytes": None, "path": f"cat/{number}.png"} for number in (1, 9)]
    pq.write_table(pa.table({"image": pa.array(rows, PATHS), "label": ["a", "b"]}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"image": pa.array(rows, PATHS), "label": ["a", "b"]}), tmp_path / "test.parquet")
    found = open_source("parquet:.", root=tmp_path).train
    with found.image(0) as image:
        assert image.size == (8, 8)
    with pytest.raises(DataError, match=r"cat/9\.png: is a pipe"):
        found.image(1)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    images(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    (tmp_path / "test/cow").mkdir()
    assert f"{tmp_path}/test/cow: no images here" in refused(tmp_path)
    (tmp_path / "test/cow").rename(tmp_path / "train/cow")
    assert f"{tmp_path}/train/cow: no images here" in refused(tmp_path)


def test_a_class_of_one_split_alone(tmp_path: Path) -> None:
    images(tmp_path, "train/cat", "train/dog", "train/cow", "test/cat", "test/dog")
    notes = summarize(Data(source="imagefolder:.", image_size=8), root=tmp_path).warnings
    assert "class 'cow' has no test image" in notes
    images(tmp_path, "test/ox")
    assert f"{tmp_path}/test/ox: class 'ox' of the test split is not in train/; both have" in refused(tmp_path)


@pytest.mark.parametrize(
    ("folders", "place", "name", "below"),
    [
        (("pets/cat", "pets/dog"), "", "pets", "cat, dog"),
        (("pets/train/cat", "pets/train/dog", "pets/test/cat", "pets/test/dog"), "", "pets", "test, train"),
        (("pets/Train/cat", "pets/Train/dog"), "", "pets", "Train"),
        (("train/pets/cat", "train/pets/dog", "test/pets/cat"), "train", "pets", "cat, dog"),
    ],
)
def test_a_folder_that_is_one_too_high_names_the_right_one(
    tmp_path: Path, folders: tuple[str, ...], place: str, name: str, below: str
) -> None:
    home = images(tmp_path, *folders) / place
    said = refused(tmp_path)
    assert f"{home}: {name!r} is its only folder, and would be the only class, but holds {below}" in said
    assert said.endswith(f"; move them to {home}" if place else f"; name {home / name} in data.source")


@pytest.mark.parametrize("folders", [("photos",), ("photos/images",), ("photos", "photos/a", "photos/b")])
def test_one_class_may_be_meant(tmp_path: Path, folders: tuple[str, ...]) -> None:
    assert opened(images(tmp_path, *folders)).classes == ("photos",)


def test_names_that_differ_in_case_are_two_classes_and_doubted(tmp_path: Path) -> None:
    images(tmp_path, "a", "A", "b")
    summary = summarize(Data(source="imagefolder:.", image_size=8, val_fraction=0.3), root=tmp_path)
    assert summary.classes == 3
    assert "the names of classes 'A' and 'a' differ in case or spaces only: are they one class?" in summary.warnings


def test_names_in_two_unicode_forms_are_refused(tmp_path: Path) -> None:
    images(tmp_path / "one", f"train/{COMPOSED}", f"train/{DECOMPOSED}", f"test/{COMPOSED}")
    assert r"classes 'cafe\u0301' and 'caf\xe9' are one name in two Unicode forms; rename one" in refused(
        tmp_path / "one"
    )
    images(tmp_path / "two", f"train/{COMPOSED}", "train/dog", f"test/{DECOMPOSED}", "test/dog")
    said = refused(tmp_path / "two")
    assert r"is not in train/; 'caf\xe9' is, which differs in case or Unicode form only: rename one" in said
    images(tmp_path / "three", "train/Cat", "train/dog", "test/cat", "test/dog")
    assert "'Cat' is, which differs in case" in refused(tmp_path / "three")


def test_labels_of_a_table_in_two_unicode_forms_are_refused(tmp_path: Path) -> None:
    images(tmp_path, "img")
    rows = [f"img/0.png,{COMPOSED},train", "img/1.png,dog,train", f"img/2.png,{DECOMPOSED},test"]
    (tmp_path / "index.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(DataError, match=r"index.csv:4: .*is none of the 2 classes; 'caf\\xe9' is, which differs in"):
        _ = open_source("table:index.csv", root=tmp_path).contents
    (tmp_path / "index.csv").write_text("\n".join(["path,label,split", *rows, f"img/3.png,{DECOMPOSED},train"]))
    with pytest.raises(DataError, match=r"table:index\.csv: classes .* are one name in two Unicode forms"):
        _ = open_source("table:index.csv", root=tmp_path).contents


def locked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Refuse to list a folder: the superuser, who may run the tests, can list all."""
    scandir = os.scandir

    def refusing(path: Any = ".") -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


@pytest.mark.parametrize("folder", ["", "train", "train/dog"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path, "train/cat", "train/dog", "test/cat")
    locked(monkeypatch, tmp_path / folder)
    assert f"{tmp_path / folder}: " in refused(tmp_path)
    assert "permissions do not let you" in refused(tmp_path) or "Permission denied" in refused(tmp_path)


def test_shards_in_a_folder_that_cannot_be_listed_are_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table({"image": [b"x"] * 10}), tmp_path / "test.parquet")
    pq.write_table(pa.table({"image": [b"x"] * 10}), tmp_path / "train/0.parquet")
    locked(monkeypatch, tmp_path / "train")
    with pytest.raises(DataError, match=r"train: cannot be listed \(Permission denied\)"):
        open_source("parquet:.", root=tmp_path)


def test_shards_below_hidden_folders_and_loops(tmp_path: Path) -> None:
    for path in ("train.parquet", ".cache/train.parquet", "__MACOSX/train.parquet", "._train.parquet"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": [b"x"] * 10}), tmp_path / path)
    assert len(open_source("parquet:.", root=tmp_path).train) == 8
    (tmp_path / "again").symlink_to(".")
    with pytest.raises(DataError, match=rf"{tmp_path}/again: links to {tmp_path}, which it is in.*; remove the link"):
        open_source("parquet:.", root=tmp_path)


def test_a_table_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match=r"index.csv: not a readable table \(a Git LFS pointer .*git lfs pull"):
        open_source("table:index.csv", root=tmp_path)
