"""What differs between two listings of an image set, in words; see `identity.py`."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from ssl_sweep.data.contents import PARTS

MAX_NAMED = 3


class Set(NamedTuple):
    """A listing: its classes in order, what is known of its files, and the split and class of each image, by name."""

    classes: list[str]
    files: dict[str, str]
    contents: dict[str, str]  # hashes of files
    images: dict[str, tuple[str, str]]
    earlier: list[str]  # files whose contents an earlier version compared, in fewer places


def differences(old: str, new: str) -> list[str]:
    """One text for each kind of difference, with counts and some names: files, classes, images, labels, split."""
    before, after = parse(old), parse(new)
    if found := list(_differences(before, after)):
        return found
    if before.earlier and not after.earlier:
        return ["more of its files' contents is compared than when the sweep began, and no difference is known"]
    return ["the order of its images"]


def parse(listing: str) -> Set:
    """Read a listing."""
    found = Set([], {}, {}, {}, [])
    for line in listing.split("\n"):
        kind, value, name = line.split("\t", 2)
        if kind == "class":
            found.classes.append(name)
        elif kind == "file":
            found.files[name] = value
        elif kind == "bytes":
            found.contents[name] = value
        elif kind == "content":
            found.earlier.append(name)
        else:
            label = "no label" if value == "-1" or not found.classes else found.classes[int(value)]
            split = "train and test" if name in found.images else kind
            found.images[name] = (split, label)
    return found


def _differences(old: Set, new: Set) -> Iterator[str]:
    resized = [name for name, size in new.files.items() if old.files.get(name, size) != size]
    compared = [name for name, each in new.contents.items() if _alike_read(old.contents.get(name), each)]
    known = {*resized}
    other = [name for name in compared if old.contents[name] != new.contents[name] and name not in known]
    more = ("of another size", resized), (f"of {len(compared):,} compared with another content", other)
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


def _alike_read(old: str | None, new: str) -> bool:
    """Whether two hashes of a file are both of all its bytes, or both of parts."""
    return old is not None and old.startswith(PARTS) == new.startswith(PARTS)


def _changes(what: str, old: Collection[str], new: Collection[str], *more: tuple[str, Collection[str]]) -> list[str]:
    known, there = {*old}, {*new}
    added, gone = [name for name in new if name not in known], [name for name in old if name not in there]
    kinds = [("added", added), ("gone", gone), *more]
    listed = [f"{len(names):,} {how} ({_some(names)})" for how, names in kinds if names]
    plural = {"class": "classes"}.get(what, f"{what}s")
    return [f"{plural}: {', '.join(listed)}"] if listed else []


def _some(names: Collection[str]) -> str:
    return ", ".join([*names][:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
