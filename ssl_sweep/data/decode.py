"""Decodes one image file of any format to upright 8-bit RGB."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# What Pillow raises for files that are damaged, truncated, of an unknown format, or larger than any photograph.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


SAMPLE_FORMAT, BITS, PHOTOMETRIC = 339, 258, 262  # tags of TIFF
SIGNED, WHITE_IS_ZERO = 2, 0
ORIENTATION = 0x0112  # a tag of EXIF
ROTATED = range(5, 9)  # its values for an image that is stored rotated by 90 degrees; others above 8 mean nothing


def decode(image: Image.Image, short_side: int | None) -> NDArray[np.uint8]:
    """(3, H, W). EXIF orientation is applied; a larger image is shrunk so that its short side is `short_side`.

    The first frame of several is read, and alpha is left out: a transparent pixel has the colour that is stored for it,
    as with torchvision. Grey integers of 12 bits are scaled by 4095, wider ones by 65535. Raises ValueError where a
    pixel is off that scale or would be black for its type's sake, and for floating point, which has no known scale.
    """
    with image:
        turn_upright(image)
        rgb = shrink(to_rgb(image), short_side)
        return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def turn_upright(image: Image.Image) -> None:
    image.load()
    try:
        image.getexif()  # Pillow keeps what it has read
    except UNREADABLE:  # without tags that can be read, an image is shown as it is stored
        return
    for written in ("exif", "Raw profile type exif"):
        image.info.pop(written, None)  # it would write the tags back into these bytes, and fails where one is odd
    ImageOps.exif_transpose(image, in_place=True)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width that `decode` gives without shrinking; only the image's header is read."""
    width, height = image.size
    try:
        rotated = (
            image.getexif().get(ORIENTATION) in ROTATED and image.format != "TIFF"
        )  # it opens with its upright size
    except UNREADABLE:
        rotated = False
    return (width, height) if rotated else (height, width)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating point, of unknown range; convert it to 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    if image.mode.startswith("I"):
        return scale_integers(image, 4095 if tags.get(BITS) == (12,) else 65535, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):  # Pillow reads them without their sign
        raise ValueError("its pixels are signed 8-bit integers; convert it to 0 to 255")
    if image.mode in ("La", "RGBa"):  # colours that are multiplied by alpha
        image = image.convert(image.mode.upper())
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def scale_integers(image: Image.Image, white: int, white_is_zero: bool) -> Image.Image:
    """Grey integers from 0 to `white` as 8-bit RGB. Pillow clips them at 255, which leaves a white image."""
    values = np.asarray(image)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > white:
        raise ValueError(f"its pixels are {lowest} to {highest}; convert it to 8 bits, or to 0 to {white}")
    if white == 65535 and 0 < highest < 256:
        raise ValueError(f"its pixels are {lowest} to {highest} of {white}, which is black; convert it to 8 bits")
    grey = (values.astype(np.uint32) * 255 // white).astype(np.uint8)
    return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")


def shrink(image: Image.Image, short_side: int | None) -> Image.Image:
    """Resize with antialiasing to the size that torchvision's Resize gives; smaller images are not changed."""
    width, height = image.size
    if short_side is None or min(width, height) <= short_side:
        return image
    size = (int(short_side * width / min(image.size)), int(short_side * height / min(image.size)))
    return image.resize(size, Image.Resampling.BILINEAR)
