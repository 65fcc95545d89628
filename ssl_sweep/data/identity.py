"""The identity of an image set: what it holds, wherever it lies and whenever it was copied there.

A listing has the set's classes, its files with their sizes, and the label and the name of each image of train and test,
in their order. Names are relative to the set's folder; contents of images are not read. The identity is its hash.
"""

import hashlib
import os
from collections.abc import Iterator

from ssl_sweep.data.items import ImageList, Source

SPLITS = ("train", "test")
SHORT = 12  # digits of a hash that people see


def listing(source: Source) -> str:
    """Lines of three fields with tabs between them: what it is, its size or label, its name.

    `class 0 cat`, `file 1234 train/cat/1.jpg` in the order of the names, `train 0 train/cat/1.jpg`.
    """
    cut = f"{source.folder}/"
    files = sorted((relative(path, cut), size) for path, size, *_ in source.files)
    lines = [f"class\t{number}\t{_line(name)}" for number, name in enumerate(source.classes)]
    lines += [f"file\t{size}\t{_line(name)}" for name, size in files]
    for split, images in zip(SPLITS, source.contents, strict=False):
        lines += [f"{split}\t{label}\t{_line(name.replace(cut, ''))}" for label, name in _images(images)]
    return "\n".join(lines)


def identity(source: Source) -> str:
    """The hash of the set's listing."""
    return identity_of(listing(source))


def identity_of(listed: str) -> str:
    """The hash of a listing."""
    return f"sha256:{hashlib.sha256(listed.encode(errors='surrogateescape')).hexdigest()}"


def short(identity: str) -> str:
    """An identity as people see it."""
    return identity.removeprefix("sha256:")[:SHORT]


def relative(path: str, folder: str) -> str:
    """A path as seen from a folder, whose name ends in a slash; some sets have files beside their folder."""
    return path.removeprefix(folder) if path.startswith(folder) else os.path.relpath(path, folder)


def _images(images: ImageList) -> Iterator[tuple[int, str]]:
    name = images.key or images.name
    return ((label, name(row)) for row, label in enumerate(images.labels.tolist()))


def _line(name: str) -> str:
    return name.replace("\n", "\\n")
