"""The identity of an image set: what it holds, wherever it lies and whenever it was copied there.

A listing has the set's classes, its files with their sizes, and the label and the name of each image of train and test,
in their order. Names are relative to the set's folder. Contents are read of some files only: of formats without
compression all files have one size, and two classes may have the same names. The identity is the listing's hash.
"""

import hashlib
import os

from ssl_sweep.data.items import File, ImageList, Source

SAMPLED = 256  # files, at most, whose contents are read
PART = 32 * 1024  # bytes of them, at each end


def listing(source: Source) -> str:
    """Lines of three fields with tabs between them: what it is, its size or label, its name.

    `class 0 cat`, `file 1234 train/cat/1.jpg` in the order of the names, `content 0f3a... train/cat/1.jpg` of some
    files, `train 0 train/cat/1.jpg`.
    """
    cut = f"{source.folder}/"
    files = sorted((relative(file.path, cut), file) for file in source.files)
    lines = [f"class\t{number}\t{_line(name)}" for number, name in enumerate(source.classes)]
    lines += [f"file\t{file.size}\t{_line(name)}" for name, file in files]
    lines += [f"content\t{_content(file)}\t{_line(name)}" for name, file in files[:: len(files) // SAMPLED + 1]]
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


def _content(file: File) -> str:
    """A hash of a file's beginning and end."""
    try:
        with open(file.path, "rb") as opened:
            head = opened.read(PART)
            opened.seek(max(0, file.size - PART))
            return hashlib.sha256(head + opened.read(PART)).hexdigest()[:16]
    except OSError:  # decoding reports it, under the policy for corrupt images
        return "unreadable"


def image_names(images: ImageList, source: Source) -> list[str]:
    """The name of each image of a list of the source, relative to the set's folder."""
    name, cut = images.key or images.name, f"{source.folder}/"
    return [name(row).replace(cut, "") for row in range(len(images))]


def _line(name: str) -> str:
    return name.replace("\n", "\\n")
