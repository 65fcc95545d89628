"""The identity of an image set: what changes it, and what does not."""

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_sweep.data.identity import identity
from ssl_sweep.data.pack import UNUSED_S, open_packs, open_whole_pack
from ssl_sweep.data.sources import open_source

from .test_source_contracts import arrow, one_arrow, shards, table, upper_case


def photos(home: Path) -> str:
    """Four images of each of two classes, without a test split."""
    for number in range(8):
        folder = home / ("cat" if number % 2 else "dog")
        folder.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 10 * number).save(folder / f"{number}.bmp")
    return "imagefolder:set"


def identity_in(root: Path, name: str) -> str:
    return identity(open_source(name, root=root))


@pytest.mark.parametrize("make", [photos, table, shards, arrow, one_arrow, upper_case])
def test_a_set_that_was_copied_is_the_same(tmp_path: Path, make: Callable[[Path], str]) -> None:
    (tmp_path / "here" / "set").mkdir(parents=True)
    name = make(tmp_path / "here" / "set")
    before = identity_in(tmp_path / "here", name)
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)  # with new times and inodes
    assert identity_in(tmp_path / "there", name) == before


@pytest.mark.parametrize("make", [table, shards])
def test_a_file_of_another_size_makes_another_set(tmp_path: Path, make: Callable[[Path], str]) -> None:
    (tmp_path / "set").mkdir()
    name = make(tmp_path / "set")
    before = identity_in(tmp_path, name)
    file = next((tmp_path / "set").glob("*.png" if name.startswith("table") else "*.tar"))
    file.write_bytes(file.read_bytes() + bytes(512))
    assert identity_in(tmp_path, name) != before


def test_names_sizes_labels_and_splits_make_a_folder_another_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    name, cats, dogs = photos(tmp_path / "set"), tmp_path / "set" / "cat", tmp_path / "set" / "dog"
    found = [identity_in(tmp_path, name), identity(open_source(name, root=tmp_path, split_seed=1))]
    (cats / "1.bmp").rename(cats / "9.bmp")
    found.append(identity_in(tmp_path, name))
    (cats / "9.bmp").unlink()
    found.append(identity_in(tmp_path, name))
    Image.new("L", (9, 9)).save(cats / "1.bmp")
    found.append(identity_in(tmp_path, name))
    cats.rename(tmp_path / "set" / "lynx")
    found.append(identity_in(tmp_path, name))
    dogs.rename(tmp_path / "moved")
    (tmp_path / "set" / "lynx").rename(dogs)
    (tmp_path / "moved").rename(tmp_path / "set" / "lynx")
    found.append(identity_in(tmp_path, name))
    assert len({*found}) == len(found)


def swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    assert len(one) == len(other)
    assert one != other
    first.write_bytes(other)
    second.write_bytes(one)


def test_two_images_of_many_that_change_places_make_another_set(tmp_path: Path) -> None:
    for folder in ("cat", "dog"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for number in range(300):
            color = (number % 256, number // 256, len(folder + "x" * (folder == "cat")))
            Image.new("RGB", (2, 2), color).save(tmp_path / "set" / folder / f"{number:03}.bmp")
    found = {identity_in(tmp_path, "imagefolder:set")}
    for number in (1, 130, 299):
        swap(tmp_path / f"set/cat/{number:03}.bmp", tmp_path / f"set/dog/{(number + 7) % 300:03}.bmp")
        found.add(identity_in(tmp_path, "imagefolder:set"))
    assert len(found) == 4


def test_any_byte_of_a_shard_makes_another_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    name = shards(tmp_path / "set")
    file = next((tmp_path / "set").glob("*.tar"))
    found = {identity_in(tmp_path, name)}
    with tarfile.open(file) as opened:
        place = opened.getmembers()[0].offset_data
    content = bytearray(file.read_bytes())
    content[place + 40] ^= 1  # in an image's compressed bytes, which are not decoded here
    file.write_bytes(content)
    found.add(identity_in(tmp_path, name))
    assert len(found) == 2


def test_labels_and_splits_make_a_table_another_set_and_its_lines_do_not(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")

    def written(lines: list[str]) -> str:
        (tmp_path / "index.csv").write_text("\n".join(["path,label,split", *lines]))
        return identity_in(tmp_path, "table:index.csv")

    lines = [f"{number}.png,{'ab'[number % 2]},{'test' if number > 7 else 'train'}" for number in range(10)]
    before = written(lines)
    assert written(["", *lines, ""]) == before
    assert written(["0.png,b,train", "1.png,a,train", *lines[2:]]) != before
    assert written([*lines[:6], "6.png,a,test", "7.png,b,train", "8.png,a,train", "9.png,b,test"]) != before


def test_a_pack_has_the_identity_of_its_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    source = open_source(photos(tmp_path / "set"), root=tmp_path)
    train, test = open_packs(source, tmp_path / "cache", on_error="raise", short_side=None)
    whole = open_whole_pack(source, tmp_path / "cache", on_error="raise", short_side=None)
    assert train.identity == test.identity == whole.identity == identity(source)
    assert len(whole) == len(train) + len(test)


def test_a_file_that_was_replaced_with_the_same_size_and_time_is_decoded_anew(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    name, file = photos(tmp_path / "set"), tmp_path / "set" / "dog" / "0.bmp"

    def first_pixel() -> int:
        pack = open_whole_pack(open_source(name, root=tmp_path), tmp_path / "cache", on_error="raise", short_side=None)
        return int(pack.batch(torch.arange(len(pack))).pixels[:, 0, 0, 0].min())

    assert first_pixel() == 0
    before = file.stat()
    Image.new("L", (8, 8), 5).save(tmp_path / "other.bmp")
    os.utime(tmp_path / "other.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(tmp_path / "other.bmp", file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert first_pixel() == 5
    with file.open("r+b") as opened:  # in place: the inode is the same
        Image.new("L", (8, 8), 3).save(opened, "bmp")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert first_pixel() == 3


def test_packs_of_earlier_files_are_removed_when_nothing_has_opened_them_for_long(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    name, cache = photos(tmp_path / "set"), tmp_path / "cache"

    def packs(short_side: int | None = None, seed: int = 0) -> set[Path]:
        open_packs(open_source(name, root=tmp_path, split_seed=seed), cache, on_error="raise", short_side=short_side)
        return {path.parent for path in cache.glob("*/meta.json")}

    (first,) = packs()
    others = packs(short_side=4) | packs(seed=1)
    for path in others:
        os.utime(path, (0, 0))
    (tmp_path / "set" / "dog" / "0.bmp").touch()
    kept = packs()
    assert first not in kept
    assert others - {first} <= kept  # of other splits and sizes
    (tmp_path / "set" / "dog" / "0.bmp").touch()
    assert kept < packs()  # opened lately
    assert UNUSED_S > 3600
