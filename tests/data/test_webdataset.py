"""Tar shards as webdataset's tools write them, and what is said of shards that are not."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import ImageList, Source
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits


def image(shade: int, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, kind)
    return buffer.getvalue()


def shard(path: Path, members: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(first: int, count: int) -> dict[str, bytes | str]:
    """Images of shades `first`, `first + 1`, ..., whose label is the shade's parity."""
    return {
        name: content
        for shade in range(first, first + count)
        for name, content in ((f"{shade:06d}.png", image(shade)), (f"{shade:06d}.cls", f"{shade % 2}\n"))
    }


def shades(images: ImageList) -> list[int]:
    return [int(np.asarray(images.image(row)).max()) for row in range(len(images))]


def opened(root: Path, source: str = "webdataset:.", **names: str) -> Source:
    return open_source(source, root=root, splits=names)  # type: ignore[arg-type]  # a test's own names


@pytest.mark.parametrize(
    "pattern", ["{split}-{number:06d}.tar", "{split}/{number:06d}.tar", "set-{split}-{number}.tar"]
)
def test_shards_of_both_splits_in_order(tmp_path: Path, pattern: str) -> None:
    for number in range(3):
        shard(tmp_path / pattern.format(split="train", number=number), samples(10 * number, 10))
    shard(tmp_path / pattern.format(split="val", number=0), samples(100, 4))
    source = opened(tmp_path)
    assert source.classes == ("0", "1")
    assert (shades(source.train), shades(source.test)) == (list(range(30)), [100, 101, 102, 103])
    assert source.train.labels.tolist() == [0, 1] * 15
    assert source.train.name(11).endswith("1.tar: 000011.png")


def test_a_set_without_a_test_split_is_packed_and_split(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", samples(0, 20))
    splits = load_splits(Data(source="webdataset:.", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (14, 2, 4)


def test_labels_in_their_usual_forms(tmp_path: Path) -> None:
    labels = {
        "a.cls": "cat",
        "b.json": json.dumps({"label": "dog", "width": 8}),
        "c.json": json.dumps({"class": "cat"}),
        "d.json": json.dumps({"cls": None}),
        "e.cls": "-1",
        "f.cls": "",
        "g.txt": "a caption",
        "h.cls": "dog",
        "h.json": json.dumps({"label": 3}),  # a number stands for a name
        "i.cls": "cat",
        "i.json": json.dumps(["about", "other", "things"]),
        "j.json": '{"label": NaN}',
    }
    members = {f"{stem}.png": image(10) for stem in "abcdefghij"} | labels
    shard(tmp_path / "train-0.tar", members)
    shard(tmp_path / "test-0.tar", {"a.png": image(1), "a.cls": "dog"})
    source = opened(tmp_path)
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 1, 0, -1, -1, -1, -1, 1, 0, -1]
    assert source.test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(["20", "22", "21", "nan"], ("20", "21", "22")), (["1", "2.0", "None", "-1"], ("1", "2"))],
)
def test_numbers_with_gaps_are_the_sorted_distinct_values(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...]
) -> None:
    members = {
        f"{row}.{end}": content for row, label in enumerate(labels) for end, content in (("png", b"x"), ("cls", label))
    }
    shard(tmp_path / "train-0.tar", members)
    shard(tmp_path / "test-0.tar", {"a.png": b"x", "a.cls": labels[1]})
    source = opened(tmp_path)
    assert source.classes == classes
    assert source.train.labels.tolist() == [
        classes.index(name) if name in classes else -1 for name in (label.replace(".0", "") for label in labels)
    ]


def test_names_end_at_the_first_dot_and_folders_inside_count(tmp_path: Path) -> None:
    members = {
        "./x/01.input.JPG": image(10, "jpeg"),
        "./x/01.cls": "0",
        "./y/01.webp": image(20, "webp"),
        "./y/01.cls": "1",
        "._01.png": b"left by macOS",
        "README": "no sample",
        "meta.json": "{}",
    }
    shard(tmp_path / "train-0.tar", members)
    shard(tmp_path / "test-0.tar", members)
    source = opened(tmp_path)
    assert source.train.labels.tolist() == [0, 1]
    assert source.train.name(0).endswith("train-0.tar: ./x/01.input.jpg")


def test_shards_by_pattern(tmp_path: Path) -> None:
    for number in range(4):
        shard(tmp_path / f"a-{number:03d}.tar", samples(10 * number, 10))
    assert shades(opened(tmp_path, "webdataset:a-{000..001}.tar", test="a-{002..003}").test) == list(range(20, 40))
    assert len(opened(tmp_path, "webdataset:a-002.tar").train) == 8
    assert len(opened(tmp_path, train="a-{001..002}.tar", test="a-003").train) == 20
    with pytest.raises(DataError, match=r"a-004\.tar is missing"):
        opened(tmp_path, "webdataset:a-{000..004}.tar")


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [(("000", "001", "003"), "002"), (("000002", "000003"), "000001"), (("1", "3"), "2"), (("09", "11"), "08")],
)
def test_a_missing_shard_is_named(tmp_path: Path, numbers: tuple[str, ...], missing: str) -> None:
    for number in numbers:
        shard(tmp_path / f"train-{number}.tar", samples(0, 2))
    with pytest.raises(DataError, match=rf"train-{missing}\.tar: this shard is missing; .*by data\.splits"):
        opened(tmp_path)


@pytest.mark.parametrize("numbers", [("0",), ("0000", "0001"), ("001", "002"), ("2023", "2024"), ("",)])
def test_numbers_that_are_complete(tmp_path: Path, numbers: tuple[str, ...]) -> None:
    for number in numbers:
        shard(tmp_path / f"train{number}.tar", samples(0, 10))
    assert len(opened(tmp_path).train) == 8 * len(numbers)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [700, 512, 1536, 3000, 20 * 1024])
def test_a_shard_that_is_cut_short_is_named(tmp_path: Path, size: int) -> None:
    path = shard(tmp_path / "train-0.tar", samples(0, 10))
    assert path.stat().st_size > 20 * 1024
    cut(path, size)
    with pytest.raises(DataError, match=r"train-0\.tar: not a readable tar file \(.*download it again"):
        _ = opened(tmp_path).contents


def test_a_shard_that_is_damaged_in_the_middle_does_not_end_there(tmp_path: Path) -> None:
    path = shard(tmp_path / "train-0.tar", samples(0, 10))
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 512] = b"\xff" * 512
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-0\.tar"):
        _ = opened(tmp_path).contents


def special(path: Path, kind: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_out_of_a_shard_are_refused(tmp_path: Path, kind: bytes) -> None:
    special(tmp_path / "train-0.tar", kind)
    with pytest.raises(DataError, match=r"train-0.tar: 'a.png' is a link or another special member"):
        _ = opened(tmp_path).contents


def test_names_that_lead_out_of_a_shard_are_only_names(tmp_path: Path) -> None:
    shard(tmp_path / "set/train-0.tar", {"../../out.png": image(5), "/etc/a.png": image(6)})
    shard(tmp_path / "set/test-0.tar", {"a.png": image(5)})
    assert shades(opened(tmp_path, "webdataset:set").train) == [5, 6]
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": "x"}, "no images in this split's shards"),
        ({"a.png": b"x", "a.jpg": b"y"}, r"'a' has several images \(png, jpg\)"),
        ({"v1.0.png": b"x", "v1.1.png": b"y"}, r"'v1' has several images \(0.png, 1.png\).*first dot"),
        ({"a.png": b"x", "a.cls": b"\xff\xfe"}, r"train-0.tar: a.cls: not a readable label"),
        ({"a.png": b"x", "a.json": "{"}, r"train-0.tar: a.json: not a readable label"),
        ({"a.png": b"x", "a.json": "[1]"}, r"train-0.tar: a.json: is no mapping"),
        ({"a.png": b"x", "a.json": '{"label": [1]}'}, r"a.json: label \[1\] is neither a whole number nor a name"),
        ({"a.png": b"x", "a.cls": "1" * 1_000_001}, r"a.cls: has 1,000,001 bytes"),
        ({"a.png": b"x", "a.json": '{"label": 0.5}'}, r"a.json: label 0.5 is neither a whole number nor a name"),
        (
            {"a.png": b"x", "a.cls": "dog", "a.json": '{"label": "cat"}'},
            r"train-0.tar: 'a' has the label 'dog' in its .cls and 'cat' in its .json; remove one",
        ),
        ({"a.png": b"x", "a.cls": "1", "a.json": '{"cls": 2}'}, "'a' has the label '1' in its .cls and 2 in its .json"),
        (
            {"a.png": b"x", "a.cls": "cat", "b.png": b"x", "b.cls": "NA"},
            r"train-0.tar: b.png: label 'NA' may be a class or no label, beside 'cat'; leave it empty",
        ),
    ],
)
def test_what_is_wrong_inside_a_shard_is_named(
    tmp_path: Path, members: Mapping[str, bytes | str], message: str
) -> None:
    shard(tmp_path / "train-0.tar", members)
    with pytest.raises(DataError, match=message):
        _ = opened(tmp_path).contents


def test_a_test_label_that_train_lacks_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", samples(0, 4))
    shard(tmp_path / "test-0.tar", {"a.png": image(5), "a.cls": "7"})
    with pytest.raises(DataError, match=r"test-0.tar: a.png: label 7 is none of the 2 classes"):
        _ = opened(tmp_path).contents


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "0 bytes"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")]
)
def test_images_that_are_none_are_named_by_shard_and_member(tmp_path: Path, content: bytes, word: str) -> None:
    shard(tmp_path / "train-0.tar", samples(0, 20) | {"000099.png": content, "000099.cls": "0"})
    shard(tmp_path / "test-0.tar", samples(0, 4))
    with pytest.raises(DataError, match=rf"train-0.tar: 000099.png: not a readable image \(.*{word}"):
        load_splits(Data(source="webdataset:.", image_size=8), root=tmp_path, cache=tmp_path / "cache")


def test_a_compressed_shard_says_how_to_unpack_it(tmp_path: Path) -> None:
    plain = shard(tmp_path / "plain.tar", samples(0, 2)).read_bytes()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/train-0.tar").write_bytes(gzip.compress(plain))
    with pytest.raises(DataError, match=r"train-0.tar: is compressed.*gunzip"):
        _ = opened(tmp_path, "webdataset:a").contents
    (tmp_path / "a/train-0.tar").rename(tmp_path / "a/train-0.tar.gz")
    with pytest.raises(DataError, match=r"train-0.tar.gz is compressed, unpack it with gunzip"):
        opened(tmp_path, "webdataset:a")


def test_a_link_to_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").symlink_to("gone.tar")
    with pytest.raises(DataError, match=r"train-0.tar: not a readable tar file \(.*No such file"):
        _ = opened(tmp_path).contents


def test_the_fingerprint_follows_the_shards_and_opening_reads_none(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(b"never read")
    first = opened(tmp_path).fingerprint
    (tmp_path / "train-0.tar").write_bytes(b"never read either")
    second = opened(tmp_path).fingerprint
    (tmp_path / "test-0.tar").write_bytes(b"x")
    assert len({json.dumps(each) for each in (first, second, opened(tmp_path).fingerprint)}) == 3


def test_members_are_read_by_several_threads(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", samples(0, 40))
    shard(tmp_path / "test-0.tar", samples(0, 2))
    images = opened(tmp_path).train
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: int(np.asarray(images.image(row)).max()), range(40)))
    assert found == list(range(40))
