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


def decode(image: Image.Image, short_side: int | None) -> NDArray[np.uint8]:
    """(3, H, W). EXIF orientation is applied; a larger image is shrunk so that its short side is `short_side`."""
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
    image.info.pop("exif", None)  # it would write the tags back into these bytes, and fails where one is odd
    ImageOps.exif_transpose(image, in_place=True)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating point, of unknown range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255, which leaves a white image.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels are {values.min()} to {values.max()}; convert it to 8 bits, or to 0 to 65535")
        values = values // 257
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def shrink(image: Image.Image, short_side: int | None) -> Image.Image:
    """Resize with antialiasing to the size that torchvision's Resize gives; smaller images are not changed."""
    width, height = image.size
    if short_side is None or min(width, height) <= short_side:
        return image
    size = (int(short_side * width / min(image.size)), int(short_side * height / min(image.size)))
    return image.resize(size, Image.Resampling.BILINEAR)
