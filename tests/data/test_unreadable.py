"""Files that are not what their names say: each is named, with the reason and a remedy, and costs one attempt."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ssl_sweep.data.decode import decode
from ssl_sweep.data.images import DataError
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits
from ssl_sweep.data.unreadable import open_image

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


def folder(home: Path) -> Path:
    """An image folder of two classes with ten images each."""
    for index in range(20):
        path = home / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index).save(path)
    return home


def message(home: Path, source: str = "imagefolder:.", **fields: object) -> str:
    data = Data(source=source, image_size=8, val_fraction=0.3, **fields)  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        load_splits(data, root=home, cache=home.parent / "cache")
    return str(caught.value)


def test_a_parquet_file_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text(POINTER)
    said = message(tmp_path, "parquet:.")
    assert f"{tmp_path}/train.parquet: not a readable Parquet file" in said
    assert "git lfs pull" in said


@pytest.mark.parametrize(("content", "word"), [(b"", "0 bytes"), (b"PAR1 cut short", "cut short or damaged")])
def test_a_parquet_file_that_is_none(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    assert word in message(tmp_path, "parquet:.")


@pytest.mark.parametrize(("content", "word"), [(POINTER.encode(), "git lfs pull"), (b"", "0 bytes"), (b"<html>", "")])
def test_an_image_that_is_none(tmp_path: Path, content: bytes, word: str) -> None:
    home = folder(tmp_path / "set")
    (home / "cat/6.png").write_bytes(content)
    said = message(home)
    assert f"{home}/cat/6.png: not a readable image" in said
    assert word in said
    data = Data(source="imagefolder:.", image_size=8, on_error="skip")
    splits = load_splits(data, root=home, cache=tmp_path / "cache")
    assert (*splits.train.skipped, *splits.test.skipped) == (f"{home}/cat/6.png",)


def test_a_set_of_pointers_only_says_so_even_when_skipping(tmp_path: Path) -> None:
    home = folder(tmp_path / "set")
    for path in home.rglob("*.png"):
        path.write_text(POINTER)
    said = message(home, on_error="skip")
    assert "no image of the train split can be decoded" in said
    assert "git lfs pull" in said


def test_a_link_back_to_its_own_folder_is_named(tmp_path: Path) -> None:
    home = folder(tmp_path / "set")
    (home / "cat/self").symlink_to(".")
    with pytest.raises(DataError, match=r"cat/self: links to .*/set/cat, which it is in.*; remove the link"):
        open_source("imagefolder:.", root=home)


def test_links_between_folders_that_lead_round_are_named(tmp_path: Path) -> None:
    home = folder(tmp_path / "set")
    (home / "cat/more").symlink_to(home / "dog")
    (home / "dog/more").symlink_to(home / "cat")
    with pytest.raises(DataError, match=r"cat/more/more: links to .*/set/cat"):
        open_source("imagefolder:.", root=home)


def test_links_that_lead_nowhere_are_single_files_and_links_to_elsewhere_are_read(tmp_path: Path) -> None:
    home, other = folder(tmp_path / "set"), folder(tmp_path / "other")
    (home / "cat/more").symlink_to(other / "dog")
    source = open_source("imagefolder:.", root=home)
    assert len(source.train) + len(source.test) == 30
    (home / "cat/round.png").symlink_to("round.png")
    (home / "cat/gone.png").symlink_to("nothing.png")
    said = message(home)
    assert "cat/gone.png: not a readable image" in said or "cat/round.png: not a readable image" in said


def tiff(path: Path, values: np.ndarray, sample_format: int) -> Path:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[339] = sample_format
    Image.fromarray(values).save(path, tiffinfo=info)
    return path


@pytest.mark.parametrize("lowest", [-32768, -1])
def test_signed_pixels_are_refused_rather_than_clipped_to_black(tmp_path: Path, lowest: int) -> None:
    path = tmp_path / "s16.tif"
    values = np.linspace(lowest, 32767, 64).reshape(8, 8).astype(np.int16)
    tiff(path, values.view(np.uint16), sample_format=2)
    with pytest.raises(ValueError, match=rf"its pixels are {lowest} to 32767; convert it to 8 bits"):
        decode(open_image(path), None)


def test_a_signed_tiff_is_named(tmp_path: Path) -> None:
    home = folder(tmp_path / "set")
    tiff(home / "cat/s16.tif", np.full((8, 8), 40_000, np.uint16), sample_format=2)
    assert f"{home}/cat/s16.tif: not a readable image (its pixels are -25536 to -25536" in message(home)


def test_an_odd_tag_does_not_keep_a_photo_from_being_turned(tmp_path: Path) -> None:
    # little-endian TIFF header, two tags: ImageWidth as a rational 72/1, Orientation 6
    entries = (256, 5, 1, 38), (274, 3, 1, 6)
    tags = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in entries
    )
    rational = (72).to_bytes(4, "little") + (1).to_bytes(4, "little")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little") + tags + bytes(4) + rational
    Image.new("RGB", (16, 8)).save(tmp_path / "odd.jpg", exif=exif)
    assert decode(open_image(tmp_path / "odd.jpg"), None).shape == (3, 16, 8)


def test_tags_that_cannot_be_read_turn_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8)).save(tmp_path / "odd.jpg", exif=b"Exif\0\0no tags at all")
    assert decode(open_image(tmp_path / "odd.jpg"), None).shape == (3, 8, 16)
