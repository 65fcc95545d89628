"""`data.source`: where the images come from, by kind and argument, such as `imagefolder:DIR`; see `USAGE`."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_sweep.data.arrow import arrow_folder
from ssl_sweep.data.image_folder import image_folder
from ssl_sweep.data.image_table import SUFFIXES, image_table
from ssl_sweep.data.images import AbsentDataError, DataError
from ssl_sweep.data.items import Contents, ImageList, Source, hold_out_test
from ssl_sweep.data.parquet import parquet_folder
from ssl_sweep.data.paths import path_of
from ssl_sweep.data.plugin_source import plugin_source
from ssl_sweep.data.split_names import SplitNames
from ssl_sweep.data.torchvision_sets import close_set, torchvision_set
from ssl_sweep.data.webdataset import webdataset_folder
from ssl_sweep.plugins import catalog

__all__ = ["Source", "open_source"]

FOLDER_KINDS = {
    "imagefolder": image_folder,
    "parquet": parquet_folder,
    "arrow": arrow_folder,
    "webdataset": webdataset_folder,
}
USAGE = {kind: f"{kind}:DIR" for kind in FOLDER_KINDS} | {
    "table": "table:FILE",
    "torchvision": "torchvision:NAME",
    "digits": "digits",
}


def open_source(source: str, *, root: Path, split_seed: int = 0, splits: SplitNames | None = None) -> Source:
    """The image set that `data.source` names; relative folders are below `root`, as are torchvision's sets.

    split_seed: for the test split of sets without one. splits: names of its folders or files, as in `data.splits`.
    Raises DataError if there is no such set; defects inside the set (a shard without labels, a set that is not
    downloaded) are raised when its lists are read.
    """
    kind, colon, argument = source.partition(":")
    plugins = catalog.names("sources")
    if kind not in USAGE and (kind in plugins or kind.startswith(catalog.LOCAL)):
        catalog.check_free("sources", kind, ())
        check_unsplit(source, splits)
        return plugin_source(kind, argument, root, split_seed)
    if kind not in USAGE:
        known = ", ".join([*USAGE.values(), *(f"{name}:ARGUMENT" for name in plugins)])
        raise DataError(f"data.source: {source!r} is of no known kind{suggest(source, plugins)}; known: {known}")
    catalog.check_free("sources", kind, USAGE)
    if bool(argument) == (kind == "digits") or (colon and not argument):
        raise DataError(f"data.source: {source!r} should be written {USAGE[kind]}")
    path = path_of(argument, root, "data.source")
    if kind == "table":
        return image_table(source, existing_table(path, source), root.resolve(), split_seed, splits)
    if kind not in FOLDER_KINDS:
        check_unsplit(source, splits)
    if kind == "digits":
        return digits(split_seed)
    if kind == "torchvision":
        return torchvision_set(argument, existing(root, source), split_seed)
    if kind == "webdataset" and path.suffix == ".tar":  # train-{000..146}.tar
        path, splits = path.parent, {"train": path.name, **(splits or {})}
    return FOLDER_KINDS[kind](source, existing(path, source), split_seed, splits)


def check_unsplit(source: str, splits: SplitNames | None) -> None:
    if splits:
        raise DataError(f"data.splits: {source!r} has no folders or files to name; remove it")


def suggest(source: str, plugins: Sequence[str]) -> str:
    kind, colon, argument = source.partition(":")
    if close := get_close_matches(kind.lower(), [*USAGE, *plugins], n=1):
        return f"; did you mean {close[0] + colon + argument!r}?"
    if not colon and (name := close_set(source)):
        return f"; did you mean 'torchvision:{name}'?"
    return ""


def existing(folder: Path, source: str) -> Path:
    if not folder.is_dir():
        hint = "give an absolute folder, or one relative to the spec file or SSL_SWEEP_DATA"
        kind = DataError if folder.exists() else AbsentDataError
        raise kind(f"data.source: {source!r}: {folder.absolute()} is not a folder; {hint}")
    return folder.resolve()


def existing_table(path: Path, source: str) -> Path:
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        what = "is no file" if not path.is_file() else "is no table"
        hint = f"name a {', '.join(SUFFIXES)} file, absolute or relative to the spec file or SSL_SWEEP_DATA"
        kind = DataError if path.exists() else AbsentDataError
        raise kind(f"data.source: {source!r}: {path.absolute()} {what}; {hint}")
    return path.resolve()


def digits(split_seed: int) -> Source:
    """scikit-learn's 1,797 grey 8x8 digits; a fifth of every class is held out by seed."""
    return Source("digits", {"kind": "digits", "split_seed": split_seed}, lambda: read_digits(split_seed))


def read_digits(split_seed: int) -> Contents:
    from sklearn.datasets import load_digits  # only this source needs scikit-learn

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8); the set counts ink from 0 to 16
    labels = bunch.target.astype(np.int64)
    images = ImageList(labels, lambda row: f"digits row {row}", lambda row: Image.fromarray(pixels[row]))
    return Contents(*hold_out_test(images, split_seed), tuple(str(name) for name in bunch.target_names))
