"""What differs between two listings of an image set, in words; see `identity.py`."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

MAX_NAMED = 3


class Set(NamedTuple):
    """A listing: its classes in order, what is known of its files, and the split and class of each image, by name."""

    classes: list[str]
    files: dict[str, str]
    contents: dict[str, str]  # hashes of some files
    images: dict[str, tuple[str, str]]


def differences(old: str, new: str) -> list[str]:
    """One text for each kind of difference, with counts and some names: files, classes, images, labels, split."""
    before, after = parse(old), parse(new)
    return list(_differences(before, after)) or ["the order of its images"]


def parse(listing: str) -> Set:
    """Read a listing."""
    found = Set([], {}, {}, {})
    for line in listing.split("\n"):
        kind, value, name = line.split("\t", 2)
        if kind == "class":
            found.classes.append(name)
        elif kind == "file":
            found.files[name] = value
        elif kind == "content":
            found.contents[name] = value
        else:
            label = "no label" if value == "-1" or not found.classes else found.classes[int(value)]
            split = "train and test" if name in found.images else kind
            found.images[name] = (split, label)
    return found


def _differences(old: Set, new: Set) -> Iterator[str]:
    resized = [name for name, size in new.files.items() if old.files.get(name, size) != size]
    rewritten = [name for name, each in new.contents.items() if old.contents.get(name, each) != each]
    other = [name for name in rewritten if name not in resized]
    more = ("of another size", resized), (f"of {len(new.contents):,} compared with another content", other)
    yield from _changes("file", old.files, new.files, *more)
    if old.classes != new.classes:
        yield from _changes("class", old.classes, new.classes) or ["its classes in another order"]
    if old.images.keys() ^ new.images.keys() != old.files.keys() ^ new.files.keys():
        yield from _changes("image", old.images, new.images)
    common = [(name, old.images[name], new.images[name]) for name in new.images if name in old.images]
    labels = [f"{name}: {was[1]} became {now[1]}" for name, was, now in common if was[1] != now[1]]
    splits = [f"{name}: {was[0]} became {now[0]}" for name, was, now in common if was[0] != now[0]]
    if labels:
        yield f"labels of {len(labels):,} of {len(common):,} images ({_some(labels)})"
    if splits:
        yield f"the split of {len(splits):,} of {len(common):,} images ({_some(splits)})"


def _changes(what: str, old: Collection[str], new: Collection[str], *more: tuple[str, Collection[str]]) -> list[str]:
    known, there = {*old}, {*new}
    added, gone = [name for name in new if name not in known], [name for name in old if name not in there]
    kinds = [("added", added), ("gone", gone), *more]
    listed = [f"{len(names):,} {how} ({_some(names)})" for how, names in kinds if names]
    plural = {"class": "classes"}.get(what, f"{what}s")
    return [f"{plural}: {', '.join(listed)}"] if listed else []


def _some(names: Collection[str]) -> str:
    return ", ".join([*names][:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
