"""Sources of plugins: `NAME:ARGUMENT` of an installed one, `local/NAME:ARGUMENT` of a folder's."""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from ssl_sweep.data.class_numbers import UNLABELLED
from ssl_sweep.data.images import AbsentDataError, DataError
from ssl_sweep.data.items import Contents, ImageList, Source, is_held_out
from ssl_sweep.errors import UserError
from ssl_sweep.plugins import catalog

PACKAGE = Path(__file__).parents[1]


def plugin_source(kind: str, argument: str, root: Path, split_seed: int) -> Source:
    """What the plugin's `open_source` returns, with the plugin's identity in its fingerprint.

    Raises:
        PluginError: the plugin is not at hand, or cannot be imported.
        DataError: it raises an error, or returns something else than a source.
    """
    open_source = catalog.attribute("sources", kind, "open_source")
    place = f"{kind}:{argument} ({catalog.origin('sources', kind)})"
    with plugin_errors(place):
        source = open_source(argument, root=root, split_seed=split_seed)
    if not isinstance(source, Source):
        raise DataError(f"{place}: open_source returns a {type(source).__name__}; let it return a Source")
    try:
        own = json.dumps(source.fingerprint, sort_keys=True)
    except TypeError as error:
        raise DataError(f"{place}: its fingerprint is not made of texts and numbers ({error})") from error
    identity = catalog.identity("sources", kind)
    fingerprint: dict[str, str | int] = {"kind": kind, "argument": argument, "plugin": identity, "own": own}
    if is_held_out(source):
        fingerprint["split_seed"] = split_seed
    folder = source.folder or root / argument  # what the images' names probably begin with
    lists = partial(read, source, place)
    return Source(f"{kind}:{argument}", fingerprint, lists, source.notes, files=source.files, folder=folder)


def read(source: Source, place: str) -> Contents:
    with plugin_errors(place):
        contents = source.contents
    if not isinstance(contents, Contents):
        raise DataError(f"{place}: its images are a {type(contents).__name__}; let them be Contents of train and test")
    for split, images in (("train", contents.train), ("test", contents.test)):
        check_labels(images, len(contents.classes), f"{place}: {split}")
    return contents


@contextmanager
def plugin_errors(place: str) -> Iterator[None]:
    """Raise an error of the plugin's code as a DataError with its line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        fault = AbsentDataError if isinstance(error, FileNotFoundError) else DataError
        raise fault(f"{place}: {told(error)}") from error


def check_labels(images: ImageList, classes: int, place: str) -> None:
    labels = np.asarray(images.labels)
    if labels.ndim != 1 or labels.dtype != np.int64:
        raise DataError(f"{place}: labels are {labels.dtype} of shape {labels.shape}; let them be int64 of shape (N,)")
    if not len(labels):
        raise DataError(f"{place}: has no images")
    if labels.min() < UNLABELLED or labels.max() >= classes:
        found = labels.min() if labels.min() < UNLABELLED else labels.max()
        raise DataError(f"{place}: label {found} is no position among the {classes} classes, and not -1 for none")


def told(error: Exception) -> str:
    """An error with the line that raised it, or that called what did."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next(
        frame for frame in reversed(frames) if PACKAGE not in Path(frame.filename).parents or frame is frames[0]
    )
    return f"{last.filename}:{last.lineno}: {type(error).__name__}: {error}"
