"""One annotation in Pascal-VOC format: an image and the boxes of its objects."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor

from ssl_sweep.data.decode import UNREADABLE, upright_size
from ssl_sweep.data.image_folder import IMAGE_SUFFIXES
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import stat_file
from ssl_sweep.data.unreadable import fault, open_image

CORNERS = ("xmin", "ymin", "xmax", "ymax")

log = logging.getLogger(__name__)

Element = ElementTree.Element
Corners = tuple[float, float, float, float]
OnError = Literal["raise", "skip"]


class Annotation(NamedTuple):
    """The objects on one image. Boxes count pixels from 0; the right and bottom edges are outside the object."""

    image: Path
    size: tuple[int, int]  # height and width in pixels, upright
    names: tuple[str, ...]  # K, the class of each object
    boxes: Tensor  # (K, 4) float32: left, top, right, bottom
    difficult: Tensor  # (K,) bool: objects that average precision ignores
    skipped: int  # degenerate boxes that were left out


def read_annotation(folder: Path, name: str, *, on_error: OnError) -> Annotation:
    """`Annotations/NAME.xml` of a VOC folder, and the size of its image.

    The format counts pixels from 1 and includes the last one, so that a box with xmin = xmax is one pixel wide. A box
    that crosses the image's edge is clipped.

    on_error: a box whose xmax is below its xmin, or that lies outside of the image, raises DataError, or is left out,
    logged and counted.

    Raises DataError, naming the file, if the annotation is missing, malformed or of another size than its image, or if
    the image is missing or unreadable.
    """
    path = find_annotation(folder, name)
    root = _parse(path)
    image = _find_image(folder / "JPEGImages", name, root, path)
    size = _image_size(image)
    _check_size(root, size, image, path)
    kept, skipped = [], 0
    for place, element in _objects(root, path):
        corners = _corners(element, place)
        defect = _defect(corners, size)
        if defect is None:
            kept.append((_text(element, "name", place), _clip(corners, size), _is_difficult(element)))
        elif on_error == "raise":
            raise DataError(f"{place} {defect}; correct or remove it, or set evaluate.detection.on_error: skip")
        else:
            log.warning("left out %s %s", place, defect)
            skipped += 1
    names, boxes, difficult = zip(*kept, strict=True) if kept else ((), (), ())
    return Annotation(
        image,
        size,
        names,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(difficult, dtype=torch.bool),
        skipped,
    )


def find_annotation(folder: Path, name: str) -> Path:
    """`Annotations/NAME.xml`, or its like with an upper-case suffix; the first where there is none."""
    usual, upper = (folder / "Annotations" / f"{name}{suffix}" for suffix in (".xml", ".XML"))
    return upper if upper.is_file() and not usual.is_file() else usual


class _Builder(ElementTree.TreeBuilder):
    """Refuses documents with a DOCTYPE, whose entities can grow without bound or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which annotations do not need and which can declare entities; remove it")


def _parse(path: Path) -> Element:
    if path.exists():
        stat_file(path)  # refuses a pipe, which would be read for ever
    try:
        parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314 - the builder refuses what is unsafe
        root: Element = ElementTree.parse(path, parser).getroot()  # noqa: S314
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing, though its image set lists it; add it or take it off the list") from error
    except (ElementTree.ParseError, ValueError, OSError) as error:
        why = fault(path) or error
        raise DataError(f"{path}: not a readable annotation ({why}); correct or remove it") from error
    if root.tag != "annotation":
        raise DataError(f"{path}: begins with <{root.tag}>, not <annotation>; expected Pascal-VOC's format")
    return root


def _find_image(folder: Path, name: str, root: Element, annotation: Path) -> Path:
    """The JPEG with the annotation's name, else the file in <filename>, else an image of another kind with its name.

    Renaming tools leave <filename> unchanged; suffixes may be upper-case.
    """
    named = Path(root.findtext("filename") or "").name
    others = (f"{name}{written}" for suffix in sorted(IMAGE_SUFFIXES) for written in (suffix, suffix.upper()))
    for candidate in (f"{name}.jpg", f"{name}.JPG", named, *others):
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(
        f"{folder / name}.jpg: is missing, though {annotation} describes it; add it or take it off the list"
    )


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with open_image(path) as image:
            return upright_size(image)
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable image ({error}); replace it or take it off the list") from error


def _check_size(root: Element, size: tuple[int, int], image: Path, annotation: Path) -> None:
    """Refuse an annotation of another image size; tools write 0 for an unknown size."""
    texts = [(root.findtext(f"size/{side}") or "").strip() or "0" for side in ("height", "width")]
    if "0" not in texts and texts not in ([str(side) for side in size], [f"{side}.0" for side in size]):
        (height, width), (own_height, own_width) = texts, size
        raise DataError(
            f"{annotation}: is made for {width}x{height} pixels, but {image} has {own_width}x{own_height} upright; "
            "its boxes would be off: annotate it again, or correct <size>"
        )


def _objects(root: Element, path: Path) -> Iterator[tuple[str, Element]]:
    """Each object and its name in messages, numbered from 1."""
    for number, element in enumerate(root.iter("object"), start=1):
        yield f"{path}: object {number} ({element.findtext('name')!r})", element


def _corners(element: Element, place: str) -> Corners:
    xmin, ymin, xmax, ymax = (_number(element, corner, place) for corner in CORNERS)
    return xmin, ymin, xmax, ymax


def _defect(corners: Corners, size: tuple[int, int]) -> str | None:
    """Why a box is useless for training; None if it is sound."""
    said = ", ".join(f"{name} {value:g}" for name, value in zip(CORNERS, corners, strict=True))
    xmin, ymin, xmax, ymax = corners
    if xmax < xmin or ymax < ymin:
        return f"has a box of no area ({said})"
    left, top, right, bottom = _clip(corners, size)
    if right <= left or bottom <= top:
        return f"has a box outside of its image of {size[1]}x{size[0]} pixels ({said})"
    return None


def _clip(corners: Corners, size: tuple[int, int]) -> Corners:
    """Left, top, right and bottom inside the image; the format counts pixels from 1 and includes the last one."""
    xmin, ymin, xmax, ymax = corners
    return max(xmin - 1, 0), max(ymin - 1, 0), min(xmax, size[1]), min(ymax, size[0])


def _number(element: Element, corner: str, place: str) -> float:
    text = _text(element, f"bndbox/{corner}", place)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: <{corner}> is {text!r}; write a number of pixels")
    return value


def _text(element: Element, tag: str, place: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise DataError(f"{place}: has no <{tag.replace('/', '><')}>; add it or remove the object")
    return text


def _is_difficult(element: Element) -> bool:
    return (element.findtext("difficult") or "").strip().lower() in ("1", "true")
