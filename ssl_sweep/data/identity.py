"""The identity of an image set: what it holds, wherever it lies and whenever it was copied there.

A listing has the set's classes, its files with their sizes, and the label and the name of each image of train and test,
in their order. Names are relative to the set's folder. Contents count as well: in formats without compression all files
have one size. All contents of a set of at most 1 GB are compared, and parts of a larger set's (`contents.py`). So in a
larger set an image may be overwritten unnoticed by another of its size: where it is a file that is not among those
compared, or lies in a large file between its parts. Files that a row of Parquet or Arrow names, in place of an image's
bytes, are not compared. The identity is the listing's hash.
"""

import hashlib
import os

from ssl_sweep.data.contents import content_hashes
from ssl_sweep.data.items import ImageList, Source


def listing(source: Source) -> str:
    """Lines of three fields with tabs between them: what it is, its size or label, its name.

    `class 0 cat`, `file 1234 train/cat/1.jpg` in the order of the names, `bytes 0f3a... train/cat/1.jpg` of all files
    or some, `train 0 train/cat/1.jpg`.
    """
    cut = f"{source.folder}/"
    files = sorted((relative(file.path, cut), file) for file in source.files)
    lines = [f"class\t{number}\t{_line(name)}" for number, name in enumerate(source.classes)]
    lines += [f"file\t{file.size}\t{_line(name)}" for name, file in files]
    lines += [f"bytes\t{content}\t{_line(name)}" for name, content in content_hashes(files)]
    for split, images in (("train", source.train), ("test", source.test)):
        labelled = zip(images.labels.tolist(), image_names(images, source), strict=True)
        lines += [f"{split}\t{label}\t{_line(name)}" for label, name in labelled]
    return "\n".join(lines)


def identity(source: Source) -> str:
    """The hash of the set's listing."""
    return identity_of(listing(source))


def identity_of(listed: str) -> str:
    """The hash of a listing."""
    return f"sha256:{hashlib.sha256(listed.encode(errors='surrogateescape')).hexdigest()}"


def relative(path: str, folder: str) -> str:
    """A path as seen from a folder, whose name ends in a slash; some sets have files beside their folder."""
    return path.removeprefix(folder) if path.startswith(folder) else os.path.relpath(path, folder)


def image_names(images: ImageList, source: Source) -> list[str]:
    """The name of each image of a list of the source, relative to the set's folder."""
    name, cut = images.key or images.name, f"{source.folder}/"
    return [name(row).replace(cut, "") for row in range(len(images))]


def _line(name: str) -> str:
    return name.replace("\n", "\\n")
