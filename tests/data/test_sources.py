"""Every kind of source, on real files laid out as users have them."""

import json
import struct
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import ImageList
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits


def grey(shade: int) -> Image.Image:
    return Image.new("L", (6, 4), shade)


def write_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey(shade).save(path)


def shade(images: ImageList, row: int) -> int:
    with images.image(row) as image:
        return round(float(np.asarray(image).mean()))


def png(shade: int) -> bytes:
    buffer = BytesIO()
    grey(shade).save(buffer, "png")
    return buffer.getvalue()


# digits


def test_digits_are_all_there_once_and_keep_their_ink(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    source = open_source("digits", root=tmp_path)
    assert (len(source.train), len(source.test)) == (1438, 359)
    assert source.classes == tuple("0123456789")
    rows = [int(images.name(row).split()[-1]) for images in (source.train, source.test) for row in range(len(images))]
    assert sorted(rows) == list(range(1797))
    row = int(source.train.name(5).split()[-1])
    with source.train.image(5) as image:
        np.testing.assert_allclose(np.asarray(image), load_digits().images[row] / 16 * 255, atol=0.5)
    assert source.train.labels[5] == load_digits().target[row]


def test_digits_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    names = [
        [source.test.name(row) for row in range(len(source.test))]
        for source in (open_source("digits", root=tmp_path, split_seed=seed) for seed in (3, 3, 4))
    ]
    assert names[0] == names[1] != names[2]


# image folders


def test_image_folder_with_both_splits(tmp_path: Path) -> None:
    write_image(tmp_path / "pets/train/cat/1.png", 10)
    write_image(tmp_path / "pets/train/dog/deep/er/2.JPG", 20)
    write_image(tmp_path / "pets/test/dog/3.png", 30)
    write_image(tmp_path / "pets/train/.ipynb_checkpoints/4.png")
    (tmp_path / "pets/train/cat/notes.txt").write_text("not an image")
    source = open_source("imagefolder:pets", root=tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 1]
    assert source.test.labels.tolist() == [1]
    assert [shade(source.train, 0), shade(source.train, 1), shade(source.test, 0)] == [10, 20, 30]
    assert source.train.name(1).endswith("pets/train/dog/deep/er/2.JPG")


def test_val_stands_in_for_test_only_when_there_is_no_test(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a/1.png")
    write_image(tmp_path / "val/a/2.png")
    assert open_source(f"imagefolder:{tmp_path}", root=Path("/")).test.name(0).endswith("val/a/2.png")
    write_image(tmp_path / "test/a/3.png")
    assert open_source(f"imagefolder:{tmp_path}", root=Path("/")).test.name(0).endswith("test/a/3.png")


def test_folder_without_splits_is_split_by_class_and_seed(tmp_path: Path) -> None:
    for name, count in {"a": 10, "b": 20}.items():
        for number in range(count):
            write_image(tmp_path / name / f"{number}.png")
    source = open_source("imagefolder:.", root=tmp_path, split_seed=1)
    assert Counter(source.train.labels.tolist()) == {0: 8, 1: 16}
    assert Counter(source.test.labels.tolist()) == {0: 2, 1: 4}
    names = {images.name(row) for images in (source.train, source.test) for row in range(len(images))}
    assert len(names) == 30
    assert all(Path(source.test.name(row)).parent.name == "ab"[source.test.labels[row]] for row in range(6))


def test_fingerprint_follows_the_files_and_the_seed_where_it_counts(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a/1.png", 1)
    write_image(tmp_path / "test/a/2.png", 2)

    def fingerprint(seed: int = 0) -> dict[str, str | int]:
        return open_source("imagefolder:.", root=tmp_path, split_seed=seed).fingerprint

    first = fingerprint()
    assert first == fingerprint() == fingerprint(seed=1)
    write_image(tmp_path / "test/a/3.png", 3)
    second = fingerprint()
    write_image(tmp_path / "test/a/3.png", 4)  # same name and size, written later
    assert len({json.dumps(each) for each in (first, second, fingerprint())}) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no class folders"),
        (["test/a/1.png"], "no train/"),
        (["train/a/1.png", "test/b/1.png"], "class 'b' of the test split is not in train"),
        (["train/a/1.png", "train/b/readme.txt", "test/a/1.png"], r"train/b: no images here"),
    ],
)
def test_image_folder_says_what_is_wrong_and_what_to_do(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=message):
        _ = open_source("imagefolder:.", root=tmp_path).contents


# Parquet


def write_shard(path: Path, images: pa.Array, labels: list[object], names: list[str] | None = None) -> None:
    table = pa.table({"id": list(range(len(labels))), "img": images, "label": labels})
    if names:
        features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def structs(shades: list[int]) -> pa.Array:
    return pa.array([{"bytes": png(each), "path": None} for each in shades])


def plain(shades: list[int]) -> pa.Array:
    return pa.array([png(each) for each in shades], type=pa.binary())


@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize("column", [structs, plain])
def test_parquet_shards_with_names_from_the_metadata(
    tmp_path: Path, folder: str, column: Callable[[list[int]], pa.Array]
) -> None:
    home = tmp_path / "set" / folder
    names = ["ant", "bee", "cow"]
    write_shard(home / "train-00000-of-00002.parquet", column([10, 20, 30]), [0, 1, 0], names)
    write_shard(home / "train-00001-of-00002.parquet", column([40, 50, 60]), [1, 2, 2], names)
    write_shard(home / "test-00000-of-00001.parquet", column([70]), [2], names)
    source = open_source("parquet:set", root=tmp_path)
    assert source.classes == ("ant", "bee", "cow")
    assert source.train.labels.tolist() == [0, 1, 0, 1, 2, 2]
    assert [shade(source.train, row) for row in (5, 0, 2, 3, 1, 4)] == [60, 10, 30, 40, 20, 50]
    assert source.train.name(5) == str(home.resolve() / "train-00001-of-00002.parquet row 2")
    assert (len(source.test), shade(source.test, 0)) == (1, 70)


def test_parquet_by_split_folders_with_words_for_labels(tmp_path: Path) -> None:
    write_shard(tmp_path / "train/0000.parquet", plain([1, 2, 3]), ["dog", "cat", "dog"])
    write_shard(tmp_path / "validation/0000.parquet", plain([4]), ["cat"])
    source = open_source("parquet:.", root=tmp_path)
    assert source.classes == ("cat", "dog")
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([1, 0, 1], [0])


def test_parquet_without_test_holds_a_fifth_out(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.parquet", plain(list(range(20))), [0, 1] * 10)
    source = open_source("parquet:.", root=tmp_path)
    assert source.classes == ("0", "1")
    assert Counter(source.test.labels.tolist()) == {0: 2, 1: 2}
    shades = [shade(images, row) for images in (source.train, source.test) for row in range(len(images))]
    assert sorted(shades) == list(range(20))
    assert all(shade(source.test, row) % 2 == source.test.labels[row] for row in range(4))


def test_parquet_fine_labels_and_an_image_column_known_by_type(tmp_path: Path) -> None:
    table = pa.table({"coarse_label": [0, 0], "fine_label": [1, 0], "picture": plain([5, 6])})
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(table, tmp_path / "test.parquet")
    source = open_source("parquet:.", root=tmp_path)
    assert source.train.labels.tolist() == [1, 0]
    assert shade(source.train, 1) == 6


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for number in range(10):
        write_image(tmp_path / f"{number}.png", number)
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source("imagefolder:.", root=tmp_path)
    assert source.classes == ()
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([-1] * 8, [-1] * 2)
    assert sorted(shade(images, row) for images in (source.train, source.test) for row in range(len(images))) == [
        *range(10)
    ]


def test_images_beside_class_folders_are_told_of(tmp_path: Path) -> None:
    write_image(tmp_path / "train/1.png")
    write_image(tmp_path / "train/cat/2.png")
    write_image(tmp_path / "test/cat/3.png")
    source = open_source("imagefolder:.", root=tmp_path)
    assert (len(source.train), source.classes) == (1, ("cat",))
    place = tmp_path / "train"
    assert source.notes == (f"{place} has class folders, so that images beside them are not read: 1",)


@pytest.mark.parametrize(
    ("train", "test", "labels"),
    [
        ("", "", ([-1, -1], [-1])),
        ("", "cat", ([-1, -1], [0])),
        ("cat", "", ([0, 0], [-1])),
        ("cat", "cat", ([0, 0], [0])),
    ],
)
def test_either_split_of_a_folder_may_be_flat(
    tmp_path: Path, train: str, test: str, labels: tuple[list[int], list[int]]
) -> None:
    for number in range(2):
        write_image(tmp_path / "train" / train / f"{number}.png")
    write_image(tmp_path / "test" / test / "2.png")
    source = open_source("imagefolder:.", root=tmp_path)
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == labels
    assert source.classes == (("cat",) if train or test else ())


def parquet_without(tmp_path: Path, column: str) -> None:
    table = pa.table({"a": plain([1]), "b": plain([2]), "image": plain([3]), "label": [0]})
    pq.write_table(table.drop_columns(column), tmp_path / "train.parquet")


def parquet_labels(tmp_path: Path, train: list[object], test: list[object]) -> None:
    for name, labels in {"train": train, "test": test}.items():
        write_shard(tmp_path / f"{name}.parquet", plain(list(range(len(labels)))), labels)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "no Parquet file of a train split"),
        (lambda folder: parquet_labels(folder, [], []), r"train.parquet: no rows"),
        (lambda folder: parquet_without(folder, "image"), "2 columns could be the image column.*a, b, label"),
        (lambda folder: parquet_labels(folder, [0, 1], [0, -2]), r"test.parquet row 1: label -2 is none of the 2"),
        (lambda folder: parquet_labels(folder, [0, -2], [0]), r"train.parquet row 1: label -2 is none of the 1"),
        (lambda folder: parquet_labels(folder, [0, 1], [0, 2]), r"test.parquet row 1: label 2 is none of the 2"),
        (
            lambda folder: parquet_labels(folder, [0.0, 0.5], [0.0]),
            r"train.parquet row 1: column 'label' of type double has 0.5",
        ),
        (
            lambda folder: parquet_labels(folder, [[0], [1]], [[0]]),
            r"column 'label' is of type list<element: int64>; a label is a whole number or a class name",
        ),
        (lambda folder: parquet_labels(folder, ["a", "b"], ["a", "c"]), "label 'c' is none of the 2"),
        (lambda folder: write_shard(folder / "train-00001-of-00003.parquet", plain([1]), [0]), "1 shards .* of 3"),
    ],
)
def test_parquet_says_what_is_wrong_and_where(tmp_path: Path, prepare: Callable[[Path], None], message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(DataError, match=message):
        _ = open_source("parquet:.", root=tmp_path).contents


@pytest.mark.parametrize("labels", [[2, 1, 3, 1], [2.0, 1.0, 3.0, 1.0], ["2", "1", "3", "1"], [20, 10, 30, 10]])
def test_parquet_labels_without_names_are_numbered_in_order(tmp_path: Path, labels: list[object]) -> None:
    parquet_labels(tmp_path, labels, labels[:3])
    source = open_source("parquet:.", root=tmp_path)
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([1, 0, 2, 0], [1, 0, 2])
    assert source.classes == tuple(str(label).removesuffix(".0") for label in sorted(set(labels), key=str))


def test_parquet_files_with_the_same_names_in_another_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.parquet", plain([1, 2, 3]), [0, 1, 1], ["cat", "dog"])
    write_shard(tmp_path / "train-1.parquet", plain([4, 5]), [0, 1], ["dog", "cat"])
    write_shard(tmp_path / "test.parquet", plain([6, 7, 8, 9]), [0, 0, 0, 1], ["dog", "cat"])
    source = open_source("parquet:.", root=tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 1, 1, 1, 0]
    assert source.test.labels.tolist() == [1, 1, 1, 0]


def test_parquet_files_with_other_names_are_refused_by_both_files(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.parquet", plain([1, 2]), [0, 1], ["cat", "dog"])
    write_shard(tmp_path / "test.parquet", plain([3, 4]), [0, 1], ["cat", "cow"])
    with pytest.raises(DataError, match=r"test.parquet: has a class 'cow' that .*train.parquet lacks"):
        _ = open_source("parquet:.", root=tmp_path).contents


@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
@pytest.mark.parametrize(
    ("labels", "numbers"),
    [([0, -1, 1], [0, -1, 1]), ([0, None, 1], [0, -1, 1]), ([0.0, float("nan"), 1.0], [0, -1, 1])],
)
def test_parquet_images_may_lack_a_label(
    tmp_path: Path, labels: list[object], numbers: list[int], names: list[str] | None
) -> None:
    write_shard(tmp_path / "train.parquet", plain([1, 2, 3]), labels, names)
    write_shard(tmp_path / "test.parquet", plain([4]), [1], names)
    source = open_source("parquet:.", root=tmp_path)
    assert source.classes == tuple(names or ("0", "1"))
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == (numbers, [1])


def test_parquet_without_a_label_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": plain(list(range(10)))}), tmp_path / "train.parquet")
    source = open_source("parquet:.", root=tmp_path)
    assert source.classes == ()
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([-1] * 8, [-1] * 2)


def test_parquet_with_only_null_or_unknown_labels(tmp_path: Path) -> None:
    parquet_labels(tmp_path, [None, None], [-1, -1])
    source = open_source("parquet:.", root=tmp_path)
    assert (source.classes, source.train.labels.tolist(), source.test.labels.tolist()) == ((), [-1, -1], [-1, -1])


def test_parquet_of_several_sets_asks_for_one(tmp_path: Path) -> None:
    for name in ("cropped", "full"):
        write_shard(tmp_path / name / "train.parquet", plain([1, 2]), [0, 1])
        write_shard(tmp_path / name / "test.parquet", plain([1, 2]), [0, 1])
    with pytest.raises(DataError, match=r"several sets \(cropped, full\); name one of them, as parquet:.*cropped"):
        open_source("parquet:.", root=tmp_path)
    assert len(open_source("parquet:full", root=tmp_path).train) == 2


# torchvision


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_torchvision_set_with_train_and_test(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST/raw"
    for split, count in {"train": 6, "t10k": 3}.items():
        pixels = np.arange(count)[:, None, None] * np.ones((1, 28, 28))
        write_idx(raw / f"{split}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(count) % 3)
    source = open_source("torchvision:FashionMNIST", root=tmp_path)
    assert source.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (len(source.test), shade(source.train, 4), source.classes[9]) == (3, 4, "Ankle boot")
    before = source.fingerprint
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(3))
    assert open_source("torchvision:FashionMNIST", root=tmp_path).fingerprint != before


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\0\0\x08\x01\0\0\0\x06\0"])
def test_damaged_files_of_a_torchvision_set_are_no_crash(tmp_path: Path, content: bytes) -> None:
    raw = tmp_path / "MNIST/raw"
    for split in ("train", "t10k"):
        write_idx(raw / f"{split}-images-idx3-ubyte", np.zeros((6, 28, 28)))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(6) % 3)
    (raw / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=rf"torchvision:MNIST: .* under {tmp_path} .*datasets.MNIST"):
        _ = open_source("torchvision:MNIST", root=tmp_path).contents


def test_caltech256_is_split_by_seed_and_leaves_the_clutter_out(tmp_path: Path) -> None:
    home = tmp_path / "caltech256/256_ObjectCategories"
    for label, name in enumerate(["001.ak47", "002.american-flag", "257.clutter"], start=1):
        for number in range(1, 11):
            write_image(home / name / f"{label:03d}_{number:04d}.jpg", label * 16)
    source = open_source("torchvision:Caltech256", root=tmp_path)
    assert source.classes == ("001.ak47", "002.american-flag")
    assert Counter(source.train.labels.tolist()) == {0: 8, 1: 8}
    assert Counter(source.test.labels.tolist()) == {0: 2, 1: 2}
    assert all(shade(source.test, row) == 16 * (source.test.labels[row] + 1) for row in range(4))
    other = open_source("torchvision:Caltech256", root=tmp_path, split_seed=1)
    assert other.fingerprint != source.fingerprint


def test_caltech101_has_its_own_words_for_labels_and_classes(tmp_path: Path) -> None:
    for name in ("BACKGROUND_Google", "accordion", "ant"):
        for number in range(1, 6):
            write_image(tmp_path / f"caltech101/101_ObjectCategories/{name}/image_{number:04d}.jpg")
    source = open_source("torchvision:Caltech101", root=tmp_path)
    assert source.classes == ("accordion", "ant")
    assert (len(source.train), len(source.test)) == (8, 2)


def test_oxford_pets_train_on_trainval(tmp_path: Path) -> None:
    home = tmp_path / "oxford-iiit-pet"
    for split, numbers in {"trainval": (1, 2), "test": (3,)}.items():
        for number in numbers:
            write_image(home / f"images/grey_cat_{number}.jpg", 8 * number)
        (home / "annotations").mkdir(exist_ok=True)
        lines = [f"grey_cat_{number} 1 1 1\n" for number in numbers]
        (home / f"annotations/{split}.txt").write_text("".join(lines))
    source = open_source("torchvision:OxfordIIITPet", root=tmp_path)
    assert source.classes == ("Grey Cat",)
    assert [shade(source.train, 1), shade(source.test, 0)] == [16, 24]
    assert source.test.name(0).endswith("grey_cat_3.jpg")


def test_stanford_cars_from_matlab_lists(tmp_path: Path) -> None:
    home = tmp_path / "stanford_cars"
    write_image(home / "cars_train/1.jpg", 8)
    write_image(home / "cars_train/2.jpg", 16)
    write_image(home / "cars_test/3.jpg", 24)
    (home / "devkit").mkdir()
    kind = [("class", np.uint8), ("fname", object)]
    train = np.array([(2, "1.jpg"), (1, "2.jpg")], dtype=kind)
    test = np.array([(1, "3.jpg"), (2, "3.jpg")], dtype=kind)
    scipy.io.savemat(home / "devkit/cars_train_annos.mat", {"annotations": train})
    scipy.io.savemat(home / "cars_test_annos_withlabels.mat", {"annotations": test})
    names = np.array(["Audi", "BMW"], dtype=object)
    scipy.io.savemat(home / "devkit/cars_meta.mat", {"class_names": names})
    source = open_source("torchvision:StanfordCars", root=tmp_path)
    assert source.classes == ("Audi", "BMW")
    assert source.train.labels.tolist() == [1, 0]
    assert [shade(source.train, 1), shade(source.test, 0)] == [16, 24]


def write_stl10(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STL-10's binary files, with five images of two classes, four for testing, and twelve without a label."""
    home.mkdir(parents=True)
    shades = {"train": range(5), "test": range(5, 9), "unlabeled": range(9, 21)}
    for split, values in shades.items():
        pixels = np.array(values, dtype=np.uint8).repeat(3 * 96 * 96)
        pixels.tofile(home / f"{split}_X.bin")
    np.array([1, 2, 1, 2, 1], dtype=np.uint8).tofile(home / "train_y.bin")
    np.array([2, 1, 2, 1], dtype=np.uint8).tofile(home / "test_y.bin")
    (home / "class_names.txt").write_text("airplane\nbird\n")
    for files in ("train_list", "test_list"):  # torchvision would compare the hashes of the real files
        unhashed = [[name, None] for name, _ in getattr(torchvision.datasets.STL10, files)]
        monkeypatch.setattr(torchvision.datasets.STL10, files, unhashed)


def test_stl10_and_its_split_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl10(tmp_path / "stl10_binary", monkeypatch)
    labelled, unlabelled, both = (
        open_source(f"torchvision:STL10{split}", root=tmp_path) for split in ("", "/unlabeled", "/train+unlabeled")
    )
    assert labelled.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert unlabelled.train.labels.tolist() == [-1] * 12
    assert both.train.labels.tolist() == [0, 1, 0, 1, 0] + [-1] * 12
    assert [shade(unlabelled.train, 0), shade(both.train, 16), shade(unlabelled.test, 0)] == [9, 20, 5]
    for source in (labelled, unlabelled, both):
        assert (source.classes, source.test.labels.tolist()) == (("airplane", "bird"), [1, 0, 1, 0])
    assert len({source.fingerprint["name"] for source in (labelled, unlabelled, both)}) == 3


def test_pretrained_on_stl10_without_labels_and_judged_on_its_labelled_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stl10(tmp_path / "stl10_binary", monkeypatch)
    data = Data(source="torchvision:STL10/unlabeled", labelled="torchvision:STL10", image_size=96, val_fraction=0.3)
    splits = load_splits(data, root=tmp_path, cache=tmp_path / "cache")
    assert splits.seen.labels.tolist() == [-1] * 12
    assert splits.seen.batch(torch.arange(12)).pixels[:, 0, 0, 0].tolist() == list(range(9, 21))
    assert (len(splits.train), len(splits.val), len(splits.test), splits.num_classes) == (3, 2, 4, 2)
    assert splits.labelled().test.labels.tolist() == [1, 0, 1, 0]


def test_a_named_test_split_is_not_tested_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl10(tmp_path / "stl10_binary", monkeypatch)
    source = open_source("torchvision:STL10/test", root=tmp_path)
    assert sorted(shade(images, row) for images in (source.train, source.test) for row in range(len(images))) == [
        5,
        6,
        7,
        8,
    ]
    assert "split_seed" in source.fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [("STL10/unlabelled", "unlabelled.*unlabeled"), ("CIFAR10/extra", "no splits to name; write torchvision:CIFAR10")],
)
def test_a_split_that_a_set_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    write_stl10(tmp_path / "stl10_binary", monkeypatch)
    with pytest.raises(DataError, match=message):
        _ = open_source(f"torchvision:{name}", root=tmp_path).contents


def test_torchvision_set_that_is_not_in_our_table(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        for name in ("negative", "positive"):
            write_image(tmp_path / f"rendered-sst2/{split}/{name}/1.png")
    source = open_source("torchvision:RenderedSST2", root=tmp_path)
    assert source.classes == ("negative", "positive")
    assert source.train.name(1).endswith("train/positive/1.png")
    write_image(tmp_path / "rendered-sst2/train/positive/2.png")
    assert open_source("torchvision:RenderedSST2", root=tmp_path).fingerprint != source.fingerprint


@pytest.mark.parametrize("name", ["CIFAR10", "Caltech256", "SVHN", "RenderedSST2"])
def test_torchvision_set_that_is_not_there_is_not_downloaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"torchvision:{name}: .*datasets.{name}\('{tmp_path}', download=True\)"):
        open_source(f"torchvision:{name}", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


# names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("imagefoldr:x", "did you mean 'imagefolder:x'"),
        ("cifar10", "did you mean 'torchvision:CIFAR10'"),
        (
            "qwertz",
            "no known kind; known: imagefolder:DIR, .*arrow:DIR, webdataset:DIR, table:FILE, torchvision:NAME, digits",
        ),
        ("digits:8", "should be written digits"),
        ("parquet", "should be written parquet:DIR"),
        ("imagefolder:", "should be written imagefolder:DIR"),
        ("torchvision:cifar100", "did you mean 'CIFAR100'"),
        ("torchvision:StanfordCar", "did you mean 'StanfordCars'"),
        ("torchvision:qwertz", "no image set 'qwertz'"),
        ("torchvision:PhotoTour", "needs root, name"),
        ("torchvision:FakeData", "needs no folder"),
        ("parquet:nowhere", "nowhere is not a folder"),
        (
            "imagefolder:~nouser/x",
            "data.source: '~nouser/x': the home of ~nouser is not known here; write",
        ),
        ("table:~nouser/x.csv", "the home of ~nouser is not known here"),
        ("imagefolder:" + "a" * 300, "data.source: 'aaa.*' cannot be opened .*too long.*; name another file or folder"),
        ("imagefolder:a\0b", "cannot be opened .*; name another file or folder"),
        ("imagefolder:circle", "'circle' cannot be opened .*; name another file or folder"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(DataError, match=message):
        open_source(source, root=tmp_path)
