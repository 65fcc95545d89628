"""`imagefolder:DIR`: one folder of images per class, or images without labels in one folder."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ssl_sweep.data.class_numbers import UNLABELLED, like
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import (
    Contents,
    File,
    ImageList,
    Source,
    digest,
    hold_out_test,
    is_folder,
    is_hidden,
    list_files,
)
from ssl_sweep.data.split_names import TEST_NAMES, TRAIN_NAMES, SplitNames, find_splits, fingerprint_of, split_notes
from ssl_sweep.data.unreadable import open_image, readable

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_NAMED = 5  # folders in a note
LAYOUT = "expected DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, DIR/CLASS/*.jpg, or without labels DIR/*.jpg"

NO_CLASS = ""  # the name under which images without a label are listed
Folders = dict[str, list[File]]  # class name -> its images


def image_folder(name: str, folder: Path, split_seed: int, splits: SplitNames | None) -> Source:
    """DIR/train and DIR/test (else val, valid); without a test folder, a fifth of every class is held out by seed."""
    train_name, test_name, notes = choose_folders(folder, splits)
    home = folder / train_name if train_name else folder
    train = list_classes(home)
    check_depth(home, train, is_split=train_name is not None)
    test = list_classes(folder / test_name) if test_name else None
    files = [file for split in (train, test or {}) for class_files in split.values() for file in class_files]
    fingerprint: dict[str, str | int] = {"kind": "imagefolder", "folder": str(folder), "files": digest(files, folder)}
    fingerprint |= fingerprint_of(train_name, test_name)
    if test is None:
        fingerprint["split_seed"] = split_seed
    parts = [home] + [folder / part for part in (test_name,) if part]
    notes += nesting_notes(home, train) + [note for part in parts if (note := loose_note(part))]
    return Source(name, fingerprint, lambda: read(train, test, split_seed), notes, files=files, folder=folder)


def choose_folders(folder: Path, splits: SplitNames | None) -> tuple[str | None, str | None, list[str]]:
    """The names of the folders of train and test, if there are such, and notes on them."""
    there = list_folders(folder)
    train, test = find_splits(there, splits, folder)
    if train and not test and not splits and len(there) > 1 and not list_folders(folder / train):
        note = f"{train} has no class folders and is taken for a class beside the others; or name it by data.splits"
        return None, None, [note]  # a class of vehicles
    if test and not train:
        remedy = f"{LAYOUT}, or name it by data.splits.train"
        raise DataError(f"{folder}: {test}/ is the test split, and there is no train/; {remedy}")
    if train and test and "test" not in (splits or {}) and not list_folders(folder / test):
        _, other = find_splits([name for name in there if name != test], splits, folder)
        if other and list_folders(folder / other) and list_folders(folder / train):
            # ImageNet's own test images have no labels
            return train, other, [f"{test} has no class folders and is not read; {other} serves as test"]
    return train, test, split_notes(there, train, test, splits)


def nesting_notes(home: Path, train: Folders) -> list[str]:
    """A note on class folders that all hold the same folders, as splits below classes do, and classes below splits."""
    shared, *others = (inner_folders(home / name, files) for name, files in train.items())
    if not others or not shared or any(other != shared for other in others):
        return []
    if len(shared) == 1 and not are_splits(shared):  # CLASS/images is usual
        return []
    classes, below = ", ".join([*train][:MAX_NAMED]), ", ".join(sorted(shared)[:MAX_NAMED])
    remedy = "if those are the splits, name them by data.splits; if these are, move CLASS/SPLIT to SPLIT/CLASS"
    return [f"the folders {classes} are taken for classes, and each holds {below}; {remedy}"]


def check_depth(home: Path, classes: Folders, *, is_split: bool) -> None:
    """Raise DataError where a single folder holds all others: its folders are the classes, or the splits."""
    (name, files), *others = classes.items()
    inner = inner_folders(home / name, files)
    if name != NO_CLASS and not others and inner and (len(inner) > 1 or are_splits(inner)):
        below = ", ".join(sorted(inner)[:MAX_NAMED])
        remedy = f"move them to {home}" if is_split else f"name {home / name} in data.source"
        raise DataError(
            f"{home}: {name!r} is its only folder, and would be the only class, but holds {below}; {remedy}"
        )


def inner_folders(folder: Path, files: Sequence[File]) -> set[str]:
    """The folders right below `folder` that images are in; none where an image is beside them."""
    inner = [file.path[len(f"{folder}/") :].partition("/") for file in files]
    return {first for first, _, _ in inner} if all(slash for _, slash, _ in inner) else set()


def are_splits(folders: Iterable[str]) -> bool:
    return {name.lower() for name in folders} <= {*TRAIN_NAMES, *TEST_NAMES}


def list_folders(folder: Path) -> list[str]:
    with readable(folder, "folder"), os.scandir(folder) as entries:  # not iterdir: there may be a million photos
        return sorted(entry.name for entry in entries if is_folder(entry) and not is_hidden(entry.name))


def list_classes(folder: Path) -> Folders:
    """The images of each class folder, at any depth below it; without such folders, those in `folder` itself."""
    if not (names := list_folders(folder)):
        if loose := [file for file in list_files(folder) if is_image(file.path)]:
            return {NO_CLASS: loose}
        raise DataError(f"{folder}: no class folders here; {LAYOUT}")
    classes = {name: [file for file in list_files(folder / name) if is_image(file.path)] for name in names}
    if empty := [name for name, files in classes.items() if not files]:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder / empty[0]}: no images here ({known}); remove the folder or fill it; {LAYOUT}")
    return classes


def loose_note(folder: Path) -> str | None:
    """A note that images lie beside class folders, where they are not read."""
    if not list_folders(folder):
        return None
    loose = sum(is_image(entry.name) for entry in folder.iterdir() if entry.is_file())
    return None if not loose else f"{folder} has class folders, so that images beside them are not read: {loose:,}"


def is_image(path: str) -> bool:
    stem, suffix = os.path.splitext(os.path.basename(path))
    return suffix.lower() in IMAGE_SUFFIXES and not stem.startswith(".")


def read(train: Folders, test: Folders | None, split_seed: int) -> Contents:
    classes = tuple(train if test is None or NO_CLASS not in train else test)
    classes = tuple(name for name in classes if name != NO_CLASS)
    if test is None:
        return Contents(*hold_out_test(label_files(train, classes), split_seed), classes)
    if unknown := sorted(set(test) - {*classes, NO_CLASS}):
        place = os.path.dirname(test[unknown[0]][0].path)
        remedy = "both have the same classes: remove it, add images of it to train, or name the splits by data.splits"
        hint = like(unknown[0], classes)
        raise DataError(f"{place}: class {unknown[0]!r} of the test split is not in train/{hint}; {remedy}")
    return Contents(label_files(train, classes), label_files(test, classes), classes)


def label_files(folders: Folders, classes: Sequence[str]) -> ImageList:
    index = {name: label for label, name in enumerate(classes)} | {NO_CLASS: UNLABELLED}
    paths = [file.path for files in folders.values() for file in files]
    labels = np.repeat([index[name] for name in folders], [len(files) for files in folders.values()])
    return ImageList(labels.astype(np.int64), lambda row: paths[row], lambda row: open_image(paths[row]))
