"""Packs: what is in them, what makes a new one, and what a crash or a race leaves behind."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, ImageList, Source
from ssl_sweep.data.pack import Pack, open_packs
from ssl_sweep.data.packing import OnError

# A process that packs five images, adds a byte to `decoded` for each, and may die at the third.
PACKER = """
import os, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from ssl_sweep.data.items import Contents, ImageList, Source
from ssl_sweep.data.pack import open_packs

folder, dies = Path(sys.argv[1]), sys.argv[2] == "dies"

def image(row):
    with open(folder / "decoded", "ab", buffering=0) as file:
        file.write(b".")
    time.sleep(0.1)
    if dies and row == 3:
        os._exit(9)
    return Image.new("RGB", (4, 4), (row, 0, 0))

images = ImageList(np.arange(5), str, image)
source = Source("five", {"kind": "five"}, lambda: Contents(images, images, tuple("abcde")))
(folder / f"ready{os.getpid()}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
train, test = open_packs(source, folder / "cache", on_error="raise", short_side=None)
assert train.batch(train.labels).pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
"""


def start_packer(folder: Path, fate: str = "lives") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PACKER, str(folder), fate], cwd=Path(__file__).parents[2])


def test_two_processes_that_start_at_once_decode_once(tmp_path: Path) -> None:
    packers = [start_packer(tmp_path) for _ in range(2)]
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("ready*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    (tmp_path / "go").touch()
    assert [packer.wait() for packer in packers] == [0, 0]
    assert len((tmp_path / "decoded").read_bytes()) == 10  # five of train, five of test


def test_a_packer_that_is_killed_leaves_no_pack(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    assert start_packer(tmp_path, "dies").wait() == 9
    assert len(list((tmp_path / "cache").glob("*.partial"))) == 1
    assert list((tmp_path / "cache").glob("*/meta.json")) == []
    images = ImageList(np.arange(5), str, lambda row: Image.new("RGB", (4, 4), (row + 50, 0, 0)))
    source = Source("five", {"kind": "five"}, lambda: Contents(images, images, tuple("abcde")))
    train, _ = open_packs(source, tmp_path / "cache", on_error="raise", short_side=None)
    assert train.batch(train.labels).pixels[:, 0, 0, 0].tolist() == [50, 51, 52, 53, 54]
    assert list((tmp_path / "cache").glob("*.partial")) == []


def write_noise(path: Path, height: int, width: int, seed: int = 0, **options: Any) -> np.ndarray:
    """A PNG of noise, and its pixels (H, W, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def pack_files(paths: list[Path], cache: Path, on_error: OnError = "raise", short_side: int | None = None) -> Pack:
    """The train pack of these files; test is the first of them."""
    labels = np.arange(len(paths))
    images = ImageList(labels, lambda row: str(paths[row]), lambda row: Image.open(paths[row]))
    classes = tuple(path.stem for path in paths)
    source = Source(
        "files", {"paths": json.dumps(classes)}, lambda: Contents(images, images.select(labels[-1:]), classes)
    )
    return open_packs(source, cache, on_error=on_error, short_side=short_side)[0]


def test_equal_images_come_back_bit_for_bit_in_any_order(tmp_path: Path) -> None:
    pixels = [write_noise(tmp_path / f"{seed}.png", 5, 7, seed) for seed in range(6)]
    pack = pack_files([tmp_path / f"{seed}.png" for seed in range(6)], tmp_path / "cache")
    indices = torch.tensor([4, 0, 4, 5])
    images = pack.batch(indices)
    assert images.pixels.shape == (4, 3, 5, 7)
    assert images.pixels.dtype == torch.uint8
    assert images.sizes.tolist() == [[5, 7]] * 4
    assert all(
        np.array_equal(found.permute(1, 2, 0), pixels[index])
        for found, index in zip(images.pixels, indices.tolist(), strict=True)
    )
    assert pack.labels.tolist() == list(range(6))
    assert pack.classes == tuple("012345")


def test_unequal_images_keep_their_shape_and_are_padded_below_and_right(tmp_path: Path) -> None:
    shapes = [(5, 7), (9, 3), (2, 2)]
    pixels = [write_noise(tmp_path / f"{seed}.png", *shape, seed) for seed, shape in enumerate(shapes)]
    pack = pack_files([tmp_path / f"{seed}.png" for seed in range(3)], tmp_path / "cache")
    images = pack.batch(torch.tensor([1, 0]))
    assert images.pixels.shape == (2, 3, 9, 7)
    assert images.sizes.tolist() == [[9, 3], [5, 7]]
    assert np.array_equal(images.pixels[0, :, :, :3].permute(1, 2, 0), pixels[1])
    assert np.array_equal(images.pixels[1, :, :5].permute(1, 2, 0), pixels[0])
    assert int(images.pixels[0, :, :, 3:].sum()) == int(images.pixels[1, :, 5:].sum()) == 0


@pytest.mark.parametrize("heights", [(4, 4, 4), (4, 5, 6)])
def test_subset_is_a_view_and_a_batch_is_a_copy(tmp_path: Path, heights: tuple[int, ...]) -> None:
    for seed, height in enumerate(heights):
        write_noise(tmp_path / f"{seed}.png", height, 4, seed)
    pack = pack_files([tmp_path / f"{seed}.png" for seed in range(3)], tmp_path / "cache")
    view = pack.subset(torch.tensor([2, 1])).subset(torch.tensor([1, 0]))  # rows 1 and 2
    assert (len(view), view.labels.tolist()) == (2, [1, 2])
    both = torch.arange(2)
    assert torch.equal(view.batch(both).pixels, pack.batch(torch.tensor([1, 2])).pixels)
    images = view.batch(both).to("cpu")
    assert (images.indices.tolist(), images.labels.tolist()) == ([0, 1], [1, 2])  # numbered as in the view
    images.pixels.zero_()
    assert int(view.batch(both).pixels.sum()) > 0
    assert len(pack) == 3


def test_images_of_every_mode_become_upright_rgb(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 8, dtype=np.uint16).reshape(2, 4)
    eight = (ramp // 257).astype(np.uint8)
    red = Image.new("RGB", (4, 2), (255, 0, 0))
    cases = {
        "grey": Image.fromarray(eight),
        "grey16": Image.fromarray(ramp),
        "grey32": Image.fromarray(ramp.astype(np.int32)),
        "palette": red.quantize(4),
        "cmyk": red.convert("CMYK"),
        "alpha": red.convert("RGBA"),
        "bilevel": Image.new("1", (4, 2), 1),
    }
    paths = [tmp_path / f"{name}.tiff" for name in cases]
    for path, image in zip(paths, cases.values(), strict=True):
        image.save(path)
    clear = tmp_path / "clear.png"
    red.quantize(4).save(clear, transparency=b"\x00\x80")
    pixels = pack_files([*paths, clear], tmp_path / "cache").batch(torch.arange(8)).pixels
    for found in pixels[:3]:
        assert np.array_equal(found, np.stack([eight] * 3))
    for found in (*pixels[3:6], pixels[7]):
        assert np.array_equal(found.permute(1, 2, 0), np.asarray(red))
    assert int(pixels[6].min()) == 255


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side: shown a quarter turn clockwise
    pixels = write_noise(tmp_path / "turned.png", 3, 5, exif=exif)
    images = pack_files([tmp_path / "turned.png"], tmp_path / "cache").batch(torch.tensor([0]))
    assert images.sizes.tolist() == [[5, 3]]
    assert np.array_equal(images.pixels[0].permute(1, 2, 0), np.rot90(pixels, -1))


def test_short_side_shrinks_as_torchvision_does_and_never_enlarges(tmp_path: Path) -> None:
    for name, shape in {"wide": (20, 33), "tall": (31, 17), "small": (6, 9)}.items():
        write_noise(tmp_path / f"{name}.png", *shape)
    paths = [tmp_path / f"{name}.png" for name in ("wide", "tall", "small")]
    pack = pack_files(paths, tmp_path / "cache", short_side=8)
    for row, path in enumerate(paths[:2]):
        with Image.open(path) as image:
            expected = np.asarray(F.resize(image, 8))
        assert np.array_equal(pack.batch(torch.tensor([row])).pixels[0].permute(1, 2, 0), expected)
    assert pack.batch(torch.tensor([2])).sizes.tolist() == [[6, 9]]


def damage(tmp_path: Path) -> list[Path]:
    """Four files: good, cut short, no image at all, good."""
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for seed, path in enumerate(paths):
        write_noise(path, 32, 32, seed)
    paths[1].write_bytes(paths[1].read_bytes()[:1500])
    paths[2].write_text("<html>404</html>")
    return paths


def test_a_corrupt_image_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    paths = damage(tmp_path)
    with pytest.raises(DataError, match=r"1\.png: not a readable image .*; replace or remove it, or set data.on_error"):
        pack_files(paths, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_corrupt_images_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = damage(tmp_path)
    pack = pack_files(paths, tmp_path / "cache", on_error="skip")
    assert pack.skipped == (str(paths[1]), str(paths[2]))
    assert pack.labels.tolist() == [0, 3]
    with Image.open(paths[3]) as image:
        assert np.array_equal(pack.batch(torch.tensor([1])).pixels[0].permute(1, 2, 0), np.asarray(image))
    assert sum("left out" in record.message for record in caplog.records) == 2
    assert pack_files(paths, tmp_path / "cache", on_error="skip").skipped == pack.skipped  # read back, not decoded


def test_a_split_without_a_good_image_is_refused_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no")
    with pytest.raises(DataError, match=r"no image of the train split can be decoded; the first: .*bad\.png"):
        pack_files([tmp_path / "bad.png"], tmp_path / "cache", on_error="skip")


def test_a_pack_is_made_once_for_each_setting(tmp_path: Path) -> None:
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for path in paths:
        write_noise(path, 10, 12)
    for on_error, short_side in (("raise", None), ("skip", None), ("raise", 9)):
        for _ in range(2):
            pack_files(paths, tmp_path / "cache", on_error, short_side)
    packs = list((tmp_path / "cache").glob("files-*/meta.json"))
    assert len(packs) == 3
    written = {path: path.stat().st_mtime_ns for path in packs}
    pack_files(paths, tmp_path / "cache")
    assert written == {path: path.stat().st_mtime_ns for path in packs}


@pytest.mark.parametrize("name", ["pixels.u8", "sizes.npy", "labels.npy", "meta.json"])
def test_a_pack_cut_short_is_packed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    write_noise(tmp_path / "1.png", 4, 4)
    before = pack_files([tmp_path / "1.png"], tmp_path / "cache").batch(torch.tensor([0]))
    path = next((tmp_path / "cache").glob(f"files-*/**/{name}"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    after = pack_files([tmp_path / "1.png"], tmp_path / "cache").batch(torch.tensor([0]))
    assert torch.equal(before.pixels, after.pixels)
    assert "packing it again" in caplog.text
    caplog.clear()
    pack_files([tmp_path / "1.png"], tmp_path / "cache")
    assert not caplog.text
    assert len([each for each in (tmp_path / "cache").iterdir() if each.is_dir()]) == 1


def test_progress_and_oversized_images_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Image.new("L", (2048, 513)).save(tmp_path / "1.png")
    pack_files([tmp_path / "1.png"], tmp_path / "cache")
    assert "packing train: 1/1" in caplog.messages
    assert any("513 pixels high and 2048 wide; set data.short_side" in message for message in caplog.messages)
