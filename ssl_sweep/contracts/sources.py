"""The contract of sources: lists that are the same each time, images that can be read, and a fingerprint of them."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ssl_sweep.contracts.contract import Check, Contract, ContractError, NotChecked, require
from ssl_sweep.contracts.small import small
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import ImageList, Source, list_files
from ssl_sweep.data.packing import decode_all
from ssl_sweep.data.sources import open_source
from ssl_sweep.errors import UserError
from ssl_sweep.plugins import catalog

SAMPLE = 16  # images of each split that are read
MAX_FILES = 20_000  # of a set whose fingerprint is checked


@dataclass(frozen=True)
class SourcePlugin:
    """A source and the argument that it is opened with."""

    opener: Callable[..., Source]
    argument: str
    root: Path  # of relative arguments

    def open(self, split_seed: int = 0) -> Source:
        """The source, its lists unread."""
        return self.opener(self.argument, root=self.root, split_seed=split_seed)

    @property
    def path(self) -> Path:
        """What the argument names, if it names a file or a folder."""
        return self.root / Path(os.path.expanduser(self.argument))


def load(root: Path, source: str) -> SourcePlugin:
    """The source that `data.source` names, `local/NAME:ARGUMENT`; without an argument, with that of its CHECK.

    Raises:
        PluginError: it cannot be imported.
        ContractError: there is no argument.
    """
    name, _, argument = source.partition(":")
    if name not in catalog.names("sources"):
        return SourcePlugin(partial(_own, name), argument, root)
    opener, module = catalog.attribute("sources", name, "open_source"), catalog.load("sources", name)
    if argument:
        return SourcePlugin(opener, argument, root)
    own = small(module).argument
    if own is None:
        remedy = f'give it one: {name}:ARGUMENT, or declare CHECK = {{"argument": ...}} in its file'
        raise ContractError(f"the source has no argument to open; {remedy}", opener)
    return SourcePlugin(opener, own, Path(module.__file__ or ".").resolve().parent)


def _own(kind: str, argument: str, *, root: Path, split_seed: int) -> Source:
    """A source of the package."""
    return open_source(f"{kind}:{argument}" if argument else kind, root=root, split_seed=split_seed)


def it_opens(plugin: SourcePlugin) -> None:
    source = plugin.open()
    remedy = "return ssl_sweep.data.items.Source(name, fingerprint, read)"
    require(isinstance(source, Source), f"open_source returns {type(source).__name__}; {remedy}", _at(plugin))
    remedy = "give it a name for people, which its pack's folder has too"
    require(isinstance(source.name, str) and bool(source.name), f"its name is {source.name!r}; {remedy}", _at(plugin))


def a_set_that_is_missing_is_refused_in_words(plugin: SourcePlugin) -> None:
    missing = replace(plugin, argument=f"{plugin.argument}-that-is-missing")
    remedy = "raise ssl_sweep.data.images.DataError(message), which names the place and the remedy"
    try:
        missing.open().contents  # noqa: B018 - lists are read on access
    except UserError:
        return
    except Exception as error:
        words = f"for {missing.argument!r} it raises {type(error).__name__}: {error}"
        raise ContractError(f"{words}; {remedy}", _at(plugin)) from error
    raise ContractError(f"for {missing.argument!r}, which is missing, it raises nothing; {remedy}", _at(plugin))


def its_splits_have_images(plugin: SourcePlugin) -> None:
    contents = plugin.open().contents
    is_contents = isinstance(contents, tuple) and len(contents) == 3
    remedy = "return ssl_sweep.data.items.Contents(train, test, classes)"
    require(is_contents, f"its lists are {type(contents).__name__}; {remedy}", _at(plugin))
    for split, images in (("train", contents[0]), ("test", contents[1])):
        is_list = isinstance(images, ImageList)
        require(is_list, f"{split} is {type(images).__name__}; make it an ssl_sweep.data.items.ImageList", _at(plugin))
        remedy = "a set without a test split can hold some out: ssl_sweep.data.items.hold_out_test"
        require(len(images) > 0, f"the {split} split has no images; {remedy}", _at(plugin))


def its_labels_are_classes(plugin: SourcePlugin) -> None:
    contents = plugin.open().contents
    classes = contents.classes
    words = f"its classes are {classes!r:.80}"
    valid = isinstance(classes, tuple) and all(isinstance(name, str) for name in classes)
    require(valid and len(set(classes)) == len(classes), f"{words}; return a tuple of different texts", _at(plugin))
    for split, labels in (("train", contents.train.labels), ("test", contents.test.labels)):
        kind = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        require(kind == np.int64, f"labels of {split} are {kind}; make them a NumPy array of int64", _at(plugin))
        low, high, last = int(labels.min()), int(labels.max()), len(classes) - 1
        words = f"labels of {split} are {low} to {high}, and there are {len(classes)} classes"
        require(low >= -1 and high <= last, f"{words}; number them from 0, and write -1 for no label", _at(plugin))


def its_lists_are_the_same_each_time(plugin: SourcePlugin) -> None:
    remedy = "sort what the file system lists, and draw by split_seed alone"
    same = _listed(plugin.open()) == _listed(plugin.open())
    require(same, f"two openings list other images, labels or orders; {remedy}", _at(plugin))


def its_images_can_be_read(plugin: SourcePlugin) -> None:
    contents = plugin.open().contents
    for images in (contents.train, contents.test):
        rows = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(np.int64))
        for row, decoded in zip(rows, decode_all(images.select(rows), None), strict=True):
            words = f"the image {images.name(int(row))!r}"
            remedy = "return a PIL image that can be converted to RGB, or remove it"
            if isinstance(decoded, DataError):
                raise ContractError(f"{words}: {decoded}; {remedy}", _at(plugin))
            require(decoded.ndim == 3 and decoded.shape[0] == 3, f"{words} has shape {decoded.shape}; {remedy}")
        names = [images.name(int(row)) for row in rows]
        words = f"images have the names {names[:3]}"
        require(len({*names}) == len(names), f"{words}; give each its own, for errors: its file, or row", _at(plugin))


def its_fingerprint_is_the_same_each_time(plugin: SourcePlugin) -> None:
    one, other = plugin.open().fingerprint, plugin.open().fingerprint
    remedy = "make it of names, sizes and times of files: ssl_sweep.data.items.digest(list_files(DIR), DIR)"
    require(one == other, f"it is {one!r:.80}, then {other!r:.80}; {remedy}", _at(plugin))
    plain = isinstance(one, dict) and all(isinstance(value, str | int) for value in one.values())
    require(plain and bool(json.dumps(one)), f"it is {one!r:.80}; make it a dict of texts and numbers", _at(plugin))


def its_fingerprint_changes_with_the_split(plugin: SourcePlugin) -> None:
    one, other = plugin.open(0), plugin.open(1)
    if _listed(one) != _listed(other):
        remedy = 'add it: "split_seed": split_seed'
        same = one.fingerprint == other.fingerprint
        require(not same, f"its split depends on split_seed, and its fingerprint does not; {remedy}", _at(plugin))


def its_fingerprint_changes_with_its_files(plugin: SourcePlugin) -> None:
    if not plugin.argument or not plugin.path.exists():
        raise NotChecked("its argument names no file or folder")
    with _copied(plugin) as copy:
        before, changed = copy.open().fingerprint, _a_file(copy.path)
        _change(changed)
        try:
            after = copy.open().fingerprint
        except Exception:  # it has noticed
            return
    remedy = "add the names, sizes and times of all files: ssl_sweep.data.items.digest(list_files(DIR), DIR)"
    words = f"it is the same after {changed.name} has changed, so that old images would be used"
    require(before != after, f"{words}; {remedy}", _at(plugin))


def _listed(source: Source) -> tuple[Any, ...]:
    """Labels and names of all images, in their order, and the classes."""
    train, test, classes = source.contents
    labels = [images.labels.tolist() for images in (train, test)]
    return labels, [[images.name(row) for row in range(len(images))] for images in (train, test)], classes


def _at(plugin: SourcePlugin) -> Any:
    return None if isinstance(plugin.opener, partial) else plugin.opener


@contextmanager
def _copied(plugin: SourcePlugin) -> Iterator[SourcePlugin]:
    """The source on links to its files, in a folder of its own."""
    folder = plugin.path if plugin.path.is_dir() else plugin.path.parent
    files = [Path(file.path) for file in islice(list_files(folder), MAX_FILES + 1)]
    if len(files) > MAX_FILES:
        raise NotChecked(f"{folder} has more than {MAX_FILES:,} files; give it a smaller set")
    with TemporaryDirectory() as temporary:
        root, name = Path(temporary).resolve(), plugin.path.resolve().name
        target = root / name if plugin.path.is_dir() else root
        for file in files:
            link = target / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        yield replace(plugin, argument=name, root=root)


def _a_file(path: Path) -> Path:
    """The set's file, or the first of the folder's commonest kind of files: an image, or a shard."""
    if path.is_file():
        return path
    files = [file for each in list_files(path) if not (file := Path(each.path)).name.startswith(".")]
    kinds = Counter(file.suffix.lower() for file in files)
    return next(file for file in files if file.suffix.lower() == kinds.most_common(1)[0][0])


def _change(link: Path) -> None:
    """Make a link a file of its own, a byte longer and newer."""
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content + b"\n")


_OPENS, _SPLITS = it_opens, its_splits_have_images
_STABLE, _SAME = its_fingerprint_is_the_same_each_time, its_lists_are_the_same_each_time
CHECKS = (
    Check(_OPENS),
    Check(a_set_that_is_missing_is_refused_in_words, (_OPENS,)),
    Check(_SPLITS, (_OPENS,)),
    Check(its_labels_are_classes, (_SPLITS,)),
    Check(_SAME, (_SPLITS,)),
    Check(its_images_can_be_read, (_SPLITS,)),
    Check(_STABLE, (_OPENS,)),
    Check(its_fingerprint_changes_with_the_split, (_STABLE, _SAME)),
    Check(its_fingerprint_changes_with_its_files, (_STABLE,)),
)


def contract(root: Path) -> Contract:
    """The contract of sources, whose relative arguments are below `root`."""
    return Contract(partial(load, root), lambda plugin: CHECKS)
