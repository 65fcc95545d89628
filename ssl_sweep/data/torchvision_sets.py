"""`torchvision:NAME`: torchvision's classification sets, opened by the parameters that each constructor has.

`torchvision:NAME/SPLIT` trains on another of the set's splits, which may have no labels: `STL10/unlabeled`.
"""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from ssl_sweep.data.class_numbers import UNLABELLED
from ssl_sweep.data.images import AbsentDataError, DataError
from ssl_sweep.data.items import Contents, File, ImageList, Source, digest, hold_out_test, list_files, stat_file

TRAIN_SPLITS = ("trainval", "train")  # then the constructor's default: "train-standard" of Places365
TEST_SPLITS = ("test", "val")  # "val" where test is not available or has no labels: ImageNet, CLEVR
LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")
FILE_ATTRIBUTES = ("_image_files", "_images", "_samples", "samples")
# Caltech-256's 257th folder holds images of no class. Without it there are 29,780 images, the number that papers train
# and test on (23,824 + 5,956).
NOT_A_CLASS = {"Caltech256": "257.clutter"}
# The files of each set, below the root: their sizes and times show whether its pack is still valid, much faster than
# torchvision opens the set (STL10 checks 3 GB of hashes). A set that is not listed is opened, and its lists are hashed.
PLACES = {
    "CIFAR10": ["cifar-10-batches-py"],
    "CIFAR100": ["cifar-100-python"],
    "Caltech101": ["caltech101/101_ObjectCategories"],
    "Caltech256": ["caltech256/256_ObjectCategories"],
    "DTD": ["dtd/dtd"],
    "EuroSAT": ["eurosat/2750"],
    "FGVCAircraft": ["fgvc-aircraft-2013b"],
    "FashionMNIST": ["FashionMNIST"],
    "Flowers102": ["flowers-102"],
    "Food101": ["food-101"],
    "KMNIST": ["KMNIST"],
    "MNIST": ["MNIST"],
    "OxfordIIITPet": ["oxford-iiit-pet"],
    "STL10": ["stl10_binary"],
    "SUN397": ["SUN397"],
    "SVHN": ["train_32x32.mat", "test_32x32.mat"],
    "StanfordCars": ["stanford_cars"],
}
NOT_DOWNLOADABLE = frozenset({"StanfordCars"})  # the constructor takes download=True, the site is gone

Build = Callable[..., Any]


def torchvision_set(name: str, root: Path, split_seed: int) -> Source:
    """The set NAME or NAME/SPLIT under `root`, in torchvision's layout; nothing is downloaded.

    If the set has no test split, or SPLIT is it, a fifth of every class is held out by seed.
    """
    full_name, (name, _, split) = name, name.partition("/")
    constructor = find_constructor(name)
    parameters = inspect.signature(constructor).parameters
    if split and "split" not in parameters:
        raise DataError(f"data.source: torchvision's {name} has no splits to name; write torchvision:{name}")

    def build(**split: Any) -> Any:
        unasked = {"download": False} if "download" in parameters else {}
        try:
            return constructor(root=str(root), **unasked, **split)
        except (RuntimeError, OSError) as error:
            kind = DataError if name in PLACES else AbsentDataError  # the files of PLACES have been found before
            raise kind(f"torchvision:{name}: not usable under {root} ({error}); {how_to_get(name, root)}") from error
        except ImportError as error:
            raise DataError(f"torchvision:{name}: needs another library to be read ({error}); install it") from error
        except Exception as error:
            if isinstance(error, ValueError) and "split" in split:
                raise  # there may be no such split
            why = f"{type(error).__name__}: {error}"
            remedy = f"they may be cut short, or pointers of Git LFS; {how_to_get(name, root)}"
            raise DataError(f"torchvision:{name}: cannot read its files under {root} ({why}); {remedy}") from error

    fingerprint: dict[str, str | int] = {"kind": "torchvision", "name": full_name, "folder": str(root)}
    if split in TEST_SPLITS or not {"train", "split"} & set(parameters):
        fingerprint["split_seed"] = split_seed
    read_lists: Callable[[], Contents] = partial(read, name, build, parameters, split_seed)
    if split:
        read_lists = partial(read_split, name, build, split, split_seed)
    if name in PLACES:
        files = find_files(name, root)
    else:
        contents = read_lists()
        fingerprint["lists"] = digest_lists(contents)
        files, read_lists = list(listed_files(contents)), lambda: contents
    fingerprint["files"] = digest(files, root)
    return Source(f"torchvision:{full_name}", fingerprint, read_lists, files=files, folder=root)


def find_constructor(name: str) -> Build:
    if name not in datasets.__all__:
        close = close_set(name)
        hint = f"did you mean {close!r}?" if close else "see torchvision.datasets for the names"
        raise DataError(f"data.source: torchvision has no image set {name!r}; {hint}")
    constructor: Build = getattr(datasets, name)
    required = [
        parameter.name
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if required != ["root"]:
        needs = ", ".join(required) or "no folder"
        raise DataError(f"data.source: torchvision's {name} needs {needs}; save its images as an imagefolder:DIR")
    return constructor


def close_set(name: str) -> str | None:
    """The torchvision set with the most similar name, in any case."""
    names = {known.lower(): known for known in datasets.__all__}
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.7)
    return names[close[0]] if close else None


def how_to_get(name: str, root: Path) -> str:
    constructor = getattr(datasets, name)
    if name in NOT_DOWNLOADABLE or "download" not in inspect.signature(constructor).parameters:
        return f"put its files there as the documentation of torchvision.datasets.{name} says"
    splits = "" if "train" in inspect.signature(constructor).parameters else ", and again for its other splits"
    call = f"datasets.{name}({str(root)!r}, download=True)"
    return f'get it once with: python -c "from torchvision import datasets; {call}"{splits}'


def find_files(name: str, root: Path) -> list[File]:
    places = [root / place for place in PLACES[name]]
    loose = [stat_file(place) for place in places if place.is_file()]
    files = loose + [file for place in places if place.is_dir() for file in list_files(place)]
    if not files:
        listed = " or ".join(map(str, places))
        raise AbsentDataError(f"torchvision:{name}: no files in {listed}; {how_to_get(name, root)}")
    return files


def listed_files(contents: Contents) -> Iterator[File]:
    """The images that are files of their own."""
    for images in (contents.train, contents.test):
        for name in map(images.name, range(len(images))):
            if os.path.isfile(name):
                yield stat_file(name)


def digest_lists(contents: Contents) -> str:
    hasher = hashlib.sha256()
    for images in (contents.train, contents.test):
        hasher.update(images.labels.tobytes())
        hasher.update("\n".join(images.name(row) for row in range(len(images))).encode())
    return hasher.hexdigest()


def read(name: str, build: Build, parameters: Mapping[str, inspect.Parameter], split_seed: int) -> Contents:
    if "train" in parameters:
        train, test = build(train=True), build(train=False)
    elif "split" in parameters:
        train = first_labelled(name, build, (*TRAIN_SPLITS, parameters["split"].default))
        test = first_labelled(name, build, TEST_SPLITS)
    else:
        train, test = build(), None
    images, classes = list_images(name, "train", train)
    if test is None:
        return Contents(*hold_out_test(images, split_seed), classes)
    return Contents(images, list_images(name, "test", test)[0], classes)


def read_split(name: str, build: Build, split: str, split_seed: int) -> Contents:
    """Train on `split`, with labels or without; the test split is the set's own."""
    try:
        chosen = build(split=split)
    except ValueError as error:
        raise DataError(f"torchvision:{name}/{split}: {error}") from error
    images, classes = list_images(name, split, chosen, may_lack_labels=True)
    if split in TEST_SPLITS:
        return Contents(*hold_out_test(images, split_seed), classes)
    test, test_classes = list_images(name, "test", first_labelled(name, build, TEST_SPLITS))
    return Contents(images, test, max(classes, test_classes, key=len))


def first_labelled(name: str, build: Build, splits: tuple[str, ...]) -> Any:
    """The first of `splits` that exists and has labels. torchvision raises ValueError for an unknown split."""
    refusals = []
    for split in splits:
        try:
            dataset = build(split=split)
        except DataError:
            raise
        except ValueError as error:
            refusals.append(f"{split}: {error}")
            continue
        if find_labels(dataset) is not None:
            return dataset
        refusals.append(f"{split}: has no class labels")
    raise DataError(f"torchvision:{name}: no split to use ({'; '.join(refusals)}); use an imagefolder:DIR instead")


def list_images(
    name: str, split: str, dataset: Any, *, may_lack_labels: bool = False
) -> tuple[ImageList, tuple[str, ...]]:
    labels = find_labels(dataset, may_lack_labels=may_lack_labels)
    if labels is None:
        raise DataError(f"torchvision:{name}: {split} has no class labels; it is not a classification set")
    files = file_names(dataset)

    def describe(row: int) -> str:
        return files[row] if files else f"torchvision:{name} {split} image {row}"

    images = ImageList(labels, describe, lambda row: as_image(dataset[row][0]))
    return leave_out(name, images, class_names(dataset, int(labels.max()) + 1))


def as_image(image: Any) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise DataError(f"torchvision gives a {type(image).__name__}, not a PIL image; use an imagefolder:DIR instead")
    return image


def leave_out(name: str, images: ImageList, classes: tuple[str, ...]) -> tuple[ImageList, tuple[str, ...]]:
    if (unwanted := NOT_A_CLASS.get(name)) not in classes:
        return images, classes
    gone = classes.index(unwanted)
    rest = images.select(np.flatnonzero(images.labels != gone))
    numbers = rest.labels - (rest.labels > gone)
    return ImageList(numbers, rest.name, rest.image), classes[:gone] + classes[gone + 1 :]


def find_labels(dataset: Any, *, may_lack_labels: bool = False) -> NDArray[np.int64] | None:
    """(N,) class numbers, read without decoding an image; None for a set of another task or an unlabelled split.

    may_lack_labels: give -1 for images without a label instead.
    """
    values = next((getattr(dataset, attribute) for attribute in LABEL_ATTRIBUTES if hasattr(dataset, attribute)), None)
    if values is None:
        samples = getattr(dataset, "_samples", None) or getattr(dataset, "samples", [])
        values = [sample[1] for sample in samples]
    labels = np.asarray(values)
    usable = labels.shape == (len(dataset),) and len(labels) and np.issubdtype(labels.dtype, np.integer)
    if may_lack_labels:
        return np.maximum(labels.astype(np.int64), UNLABELLED) if usable else np.full(len(dataset), UNLABELLED)
    return labels.astype(np.int64) if usable and labels.min() >= 0 else None


def file_names(dataset: Any) -> list[str] | None:
    entries = next((getattr(dataset, attribute) for attribute in FILE_ATTRIBUTES if hasattr(dataset, attribute)), None)
    if not entries:
        return None
    files = [entry[0] if isinstance(entry, tuple) else entry for entry in entries]
    return [str(file) for file in files] if isinstance(files[0], str | Path) else None


def class_names(dataset: Any, count: int) -> tuple[str, ...]:
    classes = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or []
    names = tuple(name if isinstance(name, str) else ", ".join(name) for name in classes)  # ImageNet's are synonyms
    return names if len(names) >= count else tuple(str(label) for label in range(count))
