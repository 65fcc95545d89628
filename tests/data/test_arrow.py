"""Sets as `save_to_disk` writes them, made here by pyarrow alone, and what is said of those that are damaged."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import ImageList, Source
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits

FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "png")
    return buffer.getvalue()


def save(
    split: Path,
    files: Sequence[Sequence[int]],
    *,
    image: Any = lambda shade: {"bytes": png(shade), "path": None},
    labels: bool = True,
    in_schema: bool = True,
    batch: int = 3,
    **state: object,
) -> Path:
    """One split: each file's images by shade, labelled by their parity. `image` makes a cell of a shade."""
    split.mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
    for name, shades in zip(names, files, strict=True):
        columns = {"image": pa.array([image(shade) for shade in shades])}
        if labels:
            columns["label"] = pa.array([shade % 2 for shade in shades], pa.int64())
        table = pa.table(columns)
        if in_schema:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
        with pa.OSFile(str(split / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=batch)
    (split / "dataset_info.json").write_text(json.dumps({"features": FEATURES, "splits": None}))
    (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **state}))
    return split


def save_dict(home: Path, **splits: Sequence[Sequence[int]]) -> Path:
    for name, files in splits.items():
        save(home / name, files)
    (home / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return home


def opened(home: Path, **names: str) -> Source:
    return open_source(f"arrow:{home}", root=home, splits=names)  # type: ignore[arg-type]  # a test's own names


def shades(images: ImageList) -> list[int]:
    return [int(np.asarray(images.image(row)).max()) for row in range(len(images))]


def test_both_splits_of_several_files(tmp_path: Path) -> None:
    save_dict(tmp_path, train=[range(7), range(7, 12)], validation=[range(50, 53)])
    source = opened(tmp_path)
    assert source.classes == ("cat", "dog")
    assert (shades(source.train), shades(source.test)) == (list(range(12)), [50, 51, 52])
    assert source.train.labels.tolist() == [0, 1] * 6
    assert source.train.name(8) == f"{tmp_path}/train/data-00001-of-00002.arrow row 1"
    assert source.notes == ("there is no test split; validation serves as test",)


def test_one_split_is_packed_and_a_fifth_held_out(tmp_path: Path) -> None:
    save(tmp_path, [range(20)])
    splits = load_splits(Data(source="arrow:.", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (14, 2, 4)


def test_splits_by_knob_and_saved_one_by_one(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 10), ("train", 20)):
        save(tmp_path / name, [range(first, first + 10)])
    assert shades(opened(tmp_path, train="a", test="b").test) == list(range(10, 20))
    assert len(opened(tmp_path).train) == 8
    with pytest.raises(DataError, match="has no 'c'; there are a, b, train"):
        opened(tmp_path, train="c")
    with pytest.raises(DataError, match="it has no parts to name"):
        opened(tmp_path / "a", train="a")


def test_class_names_of_the_info_where_the_files_have_none(tmp_path: Path) -> None:
    save(tmp_path, [range(20)], in_schema=False)
    assert opened(tmp_path).classes == ("cat", "dog")


def test_images_as_plain_bytes_without_labels(tmp_path: Path) -> None:
    save(tmp_path, [range(20)], image=png, labels=False, in_schema=False)
    (tmp_path / "dataset_info.json").unlink()
    source = opened(tmp_path)
    assert (source.classes, source.train.labels.tolist()) == ((), [-1] * 16)
    assert sorted(shades(source.train) + shades(source.test)) == list(range(20))


def test_images_by_path_stay_below_the_folder(tmp_path: Path) -> None:
    home = tmp_path / "set"
    for shade in range(20):
        path = home / "files" / f"{shade}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(shade))
    save(home / "a", [range(20)], image=lambda shade: {"bytes": None, "path": str(home / "files" / f"{shade}.png")})
    save(home / "b", [range(20)], image=lambda shade: {"bytes": None, "path": f"files/{shade}.png"})
    for name in ("a", "b"):
        source = opened(home, train=name)
        assert sorted(shades(source.train) + shades(source.test)) == list(range(20))
    (tmp_path / "secret.png").write_bytes(png(1))
    for number, path in enumerate(
        ("../secret.png", str(tmp_path / "secret.png"), "/etc/passwd", "files/../../secret.png")
    ):
        save(home / f"c{number}", [range(20)], image=lambda shade, path=path: {"bytes": None, "path": path})
        with pytest.raises(DataError, match=r"row 0: not a readable image \(its path '.*' leads out of .*/set"):
            load_splits(
                Data(source="arrow:set", image_size=8, splits={"train": f"c{number}"}),
                root=tmp_path,
                cache=tmp_path / "cache",
            )


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    save(tmp_path, [range(20)], image=lambda shade: {"bytes": png(shade) if shade != 6 else None, "path": None})
    with pytest.raises(DataError, match=r"data-00000-of-00001.arrow row 6: not a readable image \(the row holds no"):
        load_splits(Data(source="arrow:.", image_size=8), root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize("key", ["_indices_files", "_indices_data_files"])
def test_a_selection_whose_order_is_elsewhere_is_refused(tmp_path: Path, key: str) -> None:
    save(tmp_path, [range(20)], **{key: [{"filename": "indices.arrow"}]})
    with pytest.raises(DataError, match=r"selection or a shuffle .*flatten_indices\(\).save_to_disk"):
        opened(tmp_path)
    save(tmp_path, [range(20)], **{key: None})
    assert len(opened(tmp_path).train) == 16


@pytest.mark.parametrize("size", [0, 4, 100, 900, -8, -200])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, size: int) -> None:
    save(tmp_path, [range(20)])
    path = tmp_path / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"data-00000-of-00001.arrow: not a readable Arrow file \(.*download it again"):
        _ = opened(tmp_path).contents


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    save(tmp_path, [range(20)])
    path = tmp_path / "data-00000-of-00001.arrow"
    for content, word in ((b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"x" * 500, "damaged")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"arrow: not a readable Arrow file \(.*{word}"):
            _ = opened(tmp_path).contents


def test_batches_that_were_damaged_do_not_crash(tmp_path: Path) -> None:
    save(tmp_path, [range(20)])
    path = tmp_path / "data-00000-of-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"data-00000-of-00001.arrow"):
        load_splits(Data(source="arrow:.", image_size=8), root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("state.json", "{", r"state.json: not a readable file of a saved set"),
        ("state.json", "[]", r"state.json: not a readable file of a saved set \(it holds no mapping"),
        ("state.json", "{}", r"state.json: '_data_files' lists no files"),
        ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', "'_data_files' lists no files of this folder"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', r"gone.arrow: is missing, though state.json"),
    ],
)
def test_a_state_that_is_damaged_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    save(tmp_path, [range(20)])
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        _ = opened(tmp_path).contents


def test_splits_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    save_dict(tmp_path / "set", train=[range(20)])
    save(tmp_path / "other", [range(20)])
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "../other"]}')
    with pytest.raises(DataError, match="'splits' is no list of folders"):
        opened(tmp_path / "set")


def test_what_is_no_saved_set_is_told_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset_dict.json or state.json here; save the set with save_to_disk"):
        opened(tmp_path)
    save_dict(tmp_path / "set", unsupervised=[range(4)])
    with pytest.raises(DataError, match=r"its splits are unsupervised; name the one to train on by data.splits.train"):
        opened(tmp_path / "set")


def test_the_fingerprint_follows_the_files_and_the_state(tmp_path: Path) -> None:
    save_dict(tmp_path, train=[range(20)], test=[range(4)])
    first = opened(tmp_path).fingerprint
    save(tmp_path / "test", [range(5)])
    second = opened(tmp_path).fingerprint
    (tmp_path / "train/dataset_info.json").write_text(json.dumps({"features": {}}))
    prints = (first, second, opened(tmp_path).fingerprint, opened(tmp_path, train="test", test="train").fingerprint)
    assert len({json.dumps(each, sort_keys=True) for each in prints}) == 4
