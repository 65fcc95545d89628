"""Image files of every kind as 8-bit RGB: turned upright, scaled from more bits, and refused where that cannot be."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ssl_sweep.data.decode import decode, upright_size
from ssl_sweep.data.unreadable import open_image

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
TURNS = {  # by EXIF orientation: how the stored pixels (H, W, 3) are shown
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """(H, W, 3)"""
    return decode(open_image(content), None).transpose(1, 2, 0)


def tiff(values: list[int], bits: int, *, signed: bool = False, white_is_zero: bool = False, alpha: int = 0) -> bytes:
    """A TIFF of one row. alpha: the kind of a second sample in each pixel; 0 for none."""
    size = len(values) * bits // 8
    data = int("".join(f"{value % 2**bits:0{bits}b}" for value in values), 2).to_bytes(size, "big")
    if bits > 12:
        data = b"".join((value % 2**bits).to_bytes(bits // 8, "little") for value in values)
    samples, width = (2, len(values) // 2) if alpha else (1, len(values))

    def each(value: int) -> tuple[int, int]:
        return samples, value | value << 16 if alpha else value

    tags: list[tuple[int, int, int]] = [
        (256, 1, width),
        (257, 1, 1),
        (258, *each(bits)),
        (259, 1, 1),
        (262, 1, 0 if white_is_zero else 1),
        (273, 1, 0),
        (277, 1, samples),
        (278, 1, 1),
        (279, 1, len(data)),
        *([(338, 1, alpha)] if alpha else []),
        (339, *each(2 if signed else 1)),
    ]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 3, count, start if tag == 273 else value) for tag, count, value in tags]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data


# orientation


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [*TURNS, 0, 9])
def test_every_orientation_of_every_format_with_exif(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(PIXELS), kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    shown = decoded(content)
    np.testing.assert_array_equal(shown, TURNS.get(orientation, TURNS[1])(PIXELS))
    assert upright_size(open_image(content)) == shown.shape[:2]


@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_of_a_photo(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1)), "jpeg", exif=exif, quality=100, subsampling=0)
    expected = TURNS[orientation](PIXELS.repeat(8, 0).repeat(8, 1)).astype(int)
    assert np.abs(decoded(content) - expected).max() < 9


def test_an_orientation_in_a_text_chunk_of_another_tool_is_followed_without_rewriting_it() -> None:
    tags = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 256, 5, 1, 38) + struct.pack("<HHII", 274, 3, 1, 6)
    tags += bytes(4) + struct.pack("<II", 72, 1)  # a width that is a rational number, which Pillow cannot write
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(tags):8}\n{tags.hex()}\n")
    content = encoded(Image.fromarray(PIXELS), "png", pnginfo=text)
    np.testing.assert_array_equal(decoded(content), TURNS[6](PIXELS))
    assert upright_size(open_image(content)) == (4, 2)


# integers of other widths


@pytest.mark.parametrize(
    ("values", "bits", "options", "grey"),
    [
        ([0, 1, 2, 3], 2, {}, [0, 85, 170, 255]),
        ([0, 1000, 2000, 4095], 12, {}, [0, 62, 124, 255]),
        ([0, 257, 32896, 65535], 16, {}, [0, 1, 128, 255]),
        ([0, 257, 32896, 65535], 32, {}, [0, 1, 128, 255]),
        ([0, 257, 32767], 16, {"signed": True}, [0, 1, 127]),
        ([0, 0, 0, 0], 16, {}, [0, 0, 0, 0]),
        ([0, 257, 32896, 65535], 16, {"white_is_zero": True}, [255, 254, 127, 0]),
        ([0, 1, 128, 255], 8, {"white_is_zero": True}, [255, 254, 127, 0]),
        ([10, 255, 20, 128], 8, {"alpha": 2}, [10, 20]),
        ([10, 255, 20, 128], 8, {"alpha": 1}, [10, 39]),  # the colours are multiplied by alpha
    ],
)
def test_tiffs_of_other_widths_are_scaled(
    values: list[int], bits: int, options: dict[str, Any], grey: list[int]
) -> None:
    assert decoded(tiff(values, bits, **options))[0].tolist() == [[value] * 3 for value in grey]


@pytest.mark.parametrize(
    ("values", "bits", "signed", "message"),
    [
        ([-128, 127], 8, True, "its pixels are signed 8-bit integers; convert it to 0 to 255"),
        ([-32768, 32767], 16, True, "its pixels are -32768 to 32767; convert it to 8 bits, or to 0 to 65535"),
        ([0, 70000], 32, True, "its pixels are 0 to 70000; convert it to 8 bits, or to 0 to 65535"),
        ([0, 200], 32, False, "its pixels are 0 to 200 of 65535, which is black; convert it to 8 bits"),
        ([3, 200], 16, True, "its pixels are 3 to 200 of 65535, which is black"),
        ([0, 200], 16, False, "its pixels are 0 to 200 of 65535, which is black"),
    ],
)
def test_integers_off_the_scale_are_refused(values: list[int], bits: int, signed: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoded(tiff(values, bits, signed=signed))


def test_floating_point_is_refused() -> None:
    with pytest.raises(ValueError, match="its pixels are floating point, of unknown range; convert it to 8 or 16 bits"):
        decoded(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "tiff"))


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bits_of_every_format_are_scaled(kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert decoded(encoded(Image.fromarray(values), kind))[0, :, 0].tolist() == [0, 1, 128, 255]


# colours, alpha, frames


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "tiff"), ("PA", "tiff")],
)
def test_every_mode_keeps_its_colours(mode: str, kind: str) -> None:
    image = Image.new("RGB", (4, 4), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 2, 4))
    shown = decoded(encoded(image.convert(mode), kind))
    assert shown[0, :, 0].tolist() == [0, 0, 255, 255]


def test_a_transparent_pixel_has_the_colour_that_is_stored_for_it() -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    assert decoded(encoded(image, "png"))[0].tolist() == [[200, 100, 50]] * 2
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert decoded(encoded(palette, "png", transparency=b"\xff\x00"))[0].tolist() == [[200, 100, 50]] * 2


@pytest.mark.parametrize("kind", ["gif", "tiff", "png"])
def test_the_first_of_several_frames_is_read(kind: str) -> None:
    frames = [Image.new("L", (4, 4), shade) for shade in (200, 10)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decoded(content).tolist() == [[[200] * 3] * 4] * 4


def test_a_bomb_is_an_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.fromarray(PIXELS), "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    with pytest.raises(Image.DecompressionBombError, match="exceeds limit of 6 pixels"):
        decoded(content)
