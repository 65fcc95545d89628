"""`webdataset:DIR`: tar shards. Members that share a name up to its first dot are a sample: `0001.jpg`, `0001.cls`."""

import json
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ssl_sweep.data.class_numbers import WHOLE, class_numbers, labels_of_texts, names_of
from ssl_sweep.data.image_folder import is_image
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, ImageList, Source, hold_out_test, stat_file
from ssl_sweep.data.shards import find_shards
from ssl_sweep.data.split_names import SplitNames
from ssl_sweep.data.unreadable import head, open_image, readable

LAYOUT = "expected train-000000.tar ... or train/000000.tar ..., and the same for test or val"
LABEL_KEYS = ("label", "class", "cls")  # of a sample's .json
MAX_LABEL_BYTES = 1_000_000
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)$")  # the sample's name, and the rest from the first dot on
NUMBER = re.compile(r"\d+$")
CHOSEN = re.compile(r"[\d}](?:\.tar)?$")  # a name in `data.splits` that says which shards to read
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)

Place = tuple[int, int]  # offset and size in the shard, in bytes


class Sample(NamedTuple):
    """An image's place in its shard, and its label as it stands there; None without one."""

    shard: Path
    member: str
    place: Place
    label: int | str | None


def webdataset_folder(name: str, folder: Path, split_seed: int, splits: SplitNames | None) -> Source:
    """Tar shards of train and test (else val) in DIR or below it; without a test split, one is held out by seed."""
    train, test, fingerprint, notes = find_shards("webdataset", folder, ".tar", splits)
    if not train:
        packed = next((path for ending in ("*.tar.gz", "*.tgz") for path in folder.rglob(ending)), None)
        remedy = f"{packed} is compressed, unpack it with gunzip" if packed else f"{LAYOUT}, or data.splits.train"
        raise DataError(f"{folder}: no tar file of a train split; {remedy}")
    names: SplitNames = splits or {}
    for chosen, shards in ((names.get("train"), train), (names.get("test"), test)):
        if not CHOSEN.search(chosen or ""):
            check_numbers(shards)
    fingerprint = {"kind": "webdataset", **fingerprint}
    if not test:
        fingerprint["split_seed"] = split_seed
    files = map(stat_file, train + test)
    return Source(name, fingerprint, lambda: read(train, test, split_seed), notes, files=files, folder=folder)


def check_numbers(shards: Sequence[Path]) -> None:
    """Raise DataError if a number is missing between the shards' numbers, or before a first one such as 000005."""
    numbered = {int(found[0]): (path, found) for path in shards if (found := NUMBER.search(path.stem))}
    if not numbered:
        return
    first, last = min(numbered), max(numbered)
    path, found = numbered[first]
    expected = range(first - 1 if first > 1 and found[0].startswith("0") else first, last)
    if (missing := next((number for number in expected if number not in numbered), None)) is not None:
        stem = path.stem[: found.start()]
        there = f"{stem}{{{found[0]}..{numbered[last][1][0]}}}"
        lost = path.with_name(f"{stem}{missing:0{len(found[0])}}.tar")
        remedy = f"copy or download it, or name the shards to read by data.splits, such as {there!r}"
        raise DataError(f"{lost}: this shard is missing; {remedy}")


def read(train: Sequence[Path], test: Sequence[Path], split_seed: int) -> Contents:
    learned, tested = list_split(train), list_split(test) if test else []
    samples = (*learned, *tested)
    labels = labels_of_texts([sample.label for sample in samples], lambda row: name_of(samples[row]))
    classes = names_of(labels[: len(learned)])
    images = image_list(learned, labels[: len(learned)], classes)
    if not test:
        return Contents(*hold_out_test(images, split_seed), classes)
    return Contents(images, image_list(tested, labels[len(learned) :], classes), classes)


def image_list(samples: Sequence[Sample], labels: Sequence[Any], classes: tuple[str, ...]) -> ImageList:
    def name(row: int) -> str:
        return name_of(samples[row])

    def image(row: int) -> Image.Image:
        return open_image(read_bytes(samples[row].shard, samples[row].place))

    return ImageList(class_numbers(labels, classes, None, name), name, image)


def name_of(sample: Sample) -> str:
    return f"{sample.shard}: {sample.member}"


def list_split(shards: Sequence[Path]) -> list[Sample]:
    samples = [sample for shard in shards for sample in list_samples(shard)]
    if not samples:
        raise DataError(f"{shards[0]}: no images in this split's shards; expected members such as 0001.jpg or 0001.png")
    return samples


def list_samples(shard: Path) -> Iterator[Sample]:
    """The images of a shard with their labels; only its headers and labels are read."""
    for name, members in group_members(shard).items():
        images = [ending for ending in members if is_image(f"x.{ending}")]
        if len(images) > 1:
            remedy = "a sample's name ends at its first dot; rename the members, or keep one"
            raise DataError(f"{shard}: {name!r} has several images ({', '.join(images)}); {remedy}")
        if images:
            yield Sample(shard, f"{name}.{images[0]}", members[images[0]], read_label(shard, name, members))


def group_members(shard: Path) -> dict[str, dict[str, Place]]:
    """The members of each sample by the ending of their names. Raises DataError for a shard that is cut short."""
    with readable(shard, "tar file"):
        if head(shard).startswith(COMPRESSED):
            raise DataError(f"{shard}: is compressed, and its members cannot be read one by one; unpack it with gunzip")
    samples: dict[str, dict[str, Place]] = {}
    with readable(shard, "tar file", tarfile.TarError), tarfile.open(shard, "r:") as tar:
        for member in tar:
            if (found := MEMBER.match(member.name)) is None or member.isdir():
                continue
            name, ending = found[1], found[2].lower()
            if member.type not in PLAIN:
                raise DataError(f"{shard}: {member.name!r} is a link or another special member; pack the file itself")
            if ending in samples.setdefault(name, {}):
                raise DataError(f"{shard}: {member.name!r} is there twice; pack the shard again")
            samples[name][ending] = (member.offset_data, member.size)
        if read_bytes(shard, (tar.offset, tarfile.BLOCKSIZE)) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no end of the archive at byte {tar.offset:,}")
    return samples


def read_label(shard: Path, name: str, members: dict[str, Place]) -> int | str | None:
    """What a sample's `.cls` says, else its `.json`; None without a label.

    Raises DataError where they say two numbers or two names; a number may stand for the other's name.
    """
    label = said(shard, name, "cls", members["cls"]) if "cls" in members else None
    if "json" not in members:
        return label
    try:
        other = said(shard, name, "json", members["json"])
    except DataError:
        if "cls" in members:
            return label  # its .json is about other things
        raise
    if "cls" in members and are_apart(label, other):
        both = f"{label!r} in its .cls and {other!r} in its .json"
        raise DataError(f"{shard}: {name!r} has the label {both}; remove one of them, or call the .json's otherwise")
    return label if "cls" in members else other


def are_apart(*labels: int | str | None) -> bool:
    """Whether two of the labels are different numbers, or different names; a number may stand for a name."""
    texts = {str(label) for label in labels if label not in (None, "")}
    numbers = {text for text in texts if WHOLE.fullmatch(text)}
    return len({float(number) for number in numbers}) > 1 or len(texts - numbers) > 1


def said(shard: Path, name: str, ending: str, place: Place) -> int | str | None:
    """The label in a sample's member `cls` or `json`."""
    member = f"{shard}: {name}.{ending}"
    if place[1] > MAX_LABEL_BYTES:
        raise DataError(f"{member}: has {place[1]:,} bytes; a label is a number or a name")
    try:
        text = read_bytes(shard, place).decode("utf-8-sig")
        return text.strip() if ending == "cls" else label_of(json.loads(text), member)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{member}: not a readable label ({error}); write a number or a name") from error


def label_of(written: Any, place: str) -> int | str | None:
    if not isinstance(written, dict):
        raise DataError(f"{place}: is no mapping; write one with the key {LABEL_KEYS[0]!r}")
    label = next((written[key] for key in LABEL_KEYS if key in written), None)
    if isinstance(label, float):
        label = None if math.isnan(label) else int(label) if label.is_integer() else label
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise DataError(f"{place}: label {label!r} is neither a whole number nor a name")
    return label


def read_bytes(path: Path, place: Place) -> bytes:
    offset, size = place
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
