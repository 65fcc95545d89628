"""The spec's `data:` section, and the three splits that a trial sees."""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ssl_sweep.data.eval_crop import Crop, EvalCrop
from ssl_sweep.data.fingerprints import LABELLED, SOURCE, short
from ssl_sweep.data.images import DataError
from ssl_sweep.data.pack import Pack, labelled, open_packs, open_whole_pack
from ssl_sweep.data.sources import Source, open_source
from ssl_sweep.data.stratify import stratified_split

NOTHING: Mapping[str, str] = MappingProxyType({})
PER_SEED = "per_seed"  # of `split_seed`: the trial's seed draws the split
LABELS_REMEDY = "name images with labels, as data.labelled: imagefolder:DIR"
NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and how they are split."""

    source: Annotated[
        str,
        Field(
            min_length=1,
            description="digits, imagefolder:DIR, parquet:DIR, arrow:DIR, webdataset:DIR, table:FILE, torchvision:NAME "
            "or a plugin's NAME:ARGUMENT; DIR and FILE may be relative",
        ),
    ]
    labelled: Annotated[
        str | None,
        Field(
            min_length=1,
            description="the images that evaluations and health see, written as source, with splits of their own; "
            "the method then sees all training images of source; classes are of these, splits and train_images of "
            "source; null: those of source",
        ),
    ] = None
    image_size: Annotated[int, Field(ge=8, description="side of the square that the encoder sees, in pixels")]
    val_fraction: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="share of every training class that is held out for the search; 0: none, for a fixed recipe, "
            "whose evaluations then have test scores alone",
        ),
    ] = 0.1
    eval_crop: Annotated[
        EvalCrop | None,
        Field(
            description="{resize: 256, crop: 224, interpolation: bicubic}: evaluations see the central square of each "
            "image, its short side resized. By default crop is image_size, and resize 256/224 of it, bicubic; below 64 "
            "pixels resize is the crop, bilinear"
        ),
    ] = None
    splits: Annotated[
        dict[Literal["train", "test"], Annotated[str, Field(min_length=1)]] | None,
        Field(
            min_length=1,
            description="{train: NAME, test: NAME}: the folders or files of each, where their names are unusual; "
            "null: train, and test or else val",
        ),
    ] = field(default=None, hash=False)
    classes: Annotated[
        tuple[str, ...] | None,
        Field(
            min_length=1,
            description="keep only these classes, by name, or those of a text file, one a line; null: all",
        ),
    ] = None
    train_images: Annotated[
        int | None, Field(ge=2, description="keep only this many training images, stratified by class; null: all")
    ] = None
    subset: Annotated[
        dict[str, Any] | None,
        Field(
            description="{method, fraction, ...}: the part of these images that a method is pretrained on; null: all"
        ),
    ] = field(default=None, hash=False)
    split_seed: Annotated[
        Annotated[int, Field(ge=0, lt=2**63)] | Literal["per_seed"],
        Field(
            description="seed of the validation split, of the sample of train_images, and of the test split of sets "
            "without one; per_seed: the trial's seed draws the first two, so that ± covers them, and 0 the test split"
        ),
    ] = 0
    on_error: Annotated[
        Literal["raise", "skip"], Field(description="a corrupt image ends the trial, or is skipped, logged and counted")
    ] = "raise"
    short_side: Annotated[
        int | None,
        Field(ge=8, description="pixels; larger images are shrunk to this short side on decoding"),
    ] = None

    @property
    def test_seed(self) -> int:
        """The seed of the test split of a set without one: it is the same for all trials."""
        return 0 if isinstance(self.split_seed, str) else self.split_seed

    def val_seed(self, seed: int) -> int:
        """The seed of the validation split and of the sample, in a trial of this seed."""
        return seed if isinstance(self.split_seed, str) else self.split_seed


@dataclass(frozen=True)
class Origin:
    """How splits were opened, for an evaluation that opens images of another kind as well."""

    data: Data
    root: Path  # of relative sources
    cache: Path  # of decoded images
    expected: Mapping[str, str] = field(default_factory=dict)  # identities of the other sources by their names
    seed: int = 0  # of the trial

    def check(self, place: str, name: str, identity: str) -> None:
        """Raise DataError if a source, or the part of it that is seen, is not the one that is expected here."""
        check_identity(place, self.expected.get(name), identity)


@dataclass(frozen=True)
class Splits:
    """Training images, validation images split off them for the search, and test images for tables."""

    train: Pack
    val: Pack
    test: Pack
    image_size: int
    open_other: Callable[[str], "Splits"] | None = (
        None  # opens another source where none of these was opened, in checks
    )
    origin: Origin | None = None
    unsplit: Pack | None = None  # with `data.labelled`, all images of `data.source`
    sampled: bool = False  # `data.train_images` are trained on, and the validation images are not a share of them

    @property
    def seen(self) -> Pack:
        """The images that a method is pretrained on."""
        return self.train if self.unsplit is None else self.unsplit

    @property
    def num_classes(self) -> int:
        return len(self.train.classes)

    @property
    def measured(self) -> dict[str, Pack]:
        """The images that evaluations measure, by split: `val`, unless nothing is held out, and `test`."""
        return {"val": self.val, "test": self.test} if len(self.val) else {"test": self.test}

    @property
    def num_trainable(self) -> int:
        """The number of training images before validation images were held out: those of a published figure."""
        return len(self.train) + (0 if self.sampled else len(self.val))

    def joined(self) -> "Splits":
        """The splits with the validation images among the training images, and nothing held out.

        So are the splits of other sources.
        """
        origin, open_other = self.origin, self.open_other
        return replace(
            self,
            train=self.train.joined(self.val),
            val=self.val.subset(torch.arange(0)),
            open_other=None if open_other is None else lambda source: open_other(source).joined(),
            origin=None if origin is None else replace(origin, data=replace(origin.data, val_fraction=0.0)),
        )

    def other(self, source: str) -> "Splits":
        """The splits of another data set, named as in `data.source`, with all its classes and images.

        Raises:
            DataError: it cannot be opened, or these splits were not opened from a source.
        """
        if self.open_other is not None:
            return self.open_other(source)
        if self.origin is None:
            raise DataError(f"{source!r}: these splits were not opened from a source, so that no other is known")
        return _load_other(self.origin, source)

    def expecting(self, identities: Mapping[str, str]) -> "Splits":
        """The splits, which open other sources of these identities only, by their names."""
        return self if self.origin is None else replace(self, origin=replace(self.origin, expected=identities))

    def labelled(self) -> "Splits":
        """The images with a label, for what cannot do without. Raises DataError if a split has none."""
        train, val, test = (labelled(pack) for pack in (self.train, self.val, self.test))
        for name, pack in zip(NAMES.values(), (train, val, test), strict=True):
            if not len(pack) and (pack is not val or len(self.val)):
                raise DataError(f"no {name} image has a label")
        return replace(self, train=train, val=val, test=test)


def load_splits(data: Data, *, root: Path, cache: Path, expected: Mapping[str, str] = NOTHING, seed: int = 0) -> Splits:
    """The images of `data`, decoded into `cache` if they are not yet; relative sources are below `root`.

    expected: identities, by the keys `data.source` and `data.labelled`. seed: the trial's, for `split_seed: per_seed`.

    Raises DataError when the source is missing or damaged, not the one expected, or too small for a validation split.
    """
    crop = check_sides(data)
    source = open_data(data, root=root)
    if data.labelled is not None:
        seen = open_whole_pack(source, cache, on_error=data.on_error, short_side=data.short_side)
        check_identity(f"data.source: {data.source!r}", expected.get(SOURCE), seen.identity)
        with named_labelled():
            splits = load_splits(labelled_data(data), root=root, cache=cache, seed=seed)
            check_identity(repr(data.labelled), expected.get(LABELLED), splits.train.identity)
        return replace(splits, unsplit=seen.subset(sample(seen.labels, torch.arange(len(seen)), data, seed)))
    packs = open_packs(source, cache, on_error=data.on_error, short_side=data.short_side)
    train, test = (pack.seen_by(crop) for pack in packs)
    check_identity(f"data.source: {data.source!r}", expected.get(SOURCE), train.identity)
    if data.classes is not None:
        train, test = train.only(data.classes), test.only(data.classes)
    kept, held = divide(train.labels, data, seed)
    origin = Origin(data, root, cache, seed=seed)
    sampled = data.train_images is not None
    return Splits(train.subset(kept), train.subset(held), test, data.image_size, origin=origin, sampled=sampled)


def check_sides(data: Data) -> Crop:
    """The crop of evaluations. Raises DataError where images would be enlarged that have been shrunk before."""
    try:
        crop = (data.eval_crop or EvalCrop()).at(data.image_size)
    except ValueError as error:
        raise DataError(f"data.eval_crop.{error}") from None
    for key, side in (("data.image_size", data.image_size), ("the resize of data.eval_crop", crop.resize)):
        if data.short_side is not None and data.short_side < side:
            remedy = "images would be shrunk, then enlarged; raise short_side or leave it out"
            raise DataError(f"data.short_side: {data.short_side} is below {key}, {side}: {remedy}")
    return crop


def open_data(data: Data, *, root: Path) -> Source:
    """The image set of `data.source`, listed but not decoded. Raises DataError when it is missing or damaged."""
    return open_source(data.source, root=root, split_seed=data.test_seed, splits=data.splits)


def labelled_data(data: Data) -> Data:
    """How the images of `data.labelled` are opened; the names of splits and the sample are those of `data.source`."""
    return replace(data, source=data.labelled or data.source, labelled=None, splits=None, train_images=None)


@contextmanager
def named_labelled() -> Iterator[None]:
    """Errors about a source name the key `data.labelled`."""
    try:
        yield
    except DataError as error:
        error.args = (f"data.labelled: {str(error).removeprefix('data.source: ')}",)
        raise


@contextmanager
def named_source() -> Iterator[None]:
    """Errors about a file or folder of a source name the key `data.source`."""
    try:
        yield
    except DataError as error:
        if not str(error).startswith("data."):
            error.args = (f"data.source: {error}",)
        raise


def data_of(section: Mapping[str, Any]) -> Data:
    """The `data` section of a spec or a trial's config; JSON has no tuples, and a config has the root besides.

    Without its `subset`: the same splits are opened for all of them.
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in section.items()
    }
    if isinstance(crop := fields.get("eval_crop"), Mapping):
        fields["eval_crop"] = EvalCrop(**crop)
    return Data(**{name: value for name, value in fields.items() if name not in ("root", "subset")})


def divide(labels: Tensor, data: Data, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The rows of labels (N,) of a training split that are trained on, and those that are held out for the search.

    seed: the trial's. Raises DataError when none is left to hold out.
    """
    kept, held = stratified_split(labels, data.val_fraction, data.val_seed(seed))
    if data.val_fraction and not len(held):
        place = f"data.val_fraction: {data.val_fraction} of {len(labels)} training images"
        raise DataError(f"{place} leaves no validation image; raise it")
    return sample(labels, kept, data, seed), held


def check_identity(place: str, expected: str | None, found: str) -> None:
    """Raise DataError if images are not those that the sweep has; None expects any."""
    if expected not in (None, found):
        words = f"{short(found)} on {socket.gethostname()}, and the sweep's data is {short(expected or '')}"
        raise DataError(f"{place} is {words}; let the node see the same files, then resume the sweep")


def _load_other(origin: Origin, source: str) -> Splits:
    other = replace(origin.data, source=source, labelled=None, splits=None, classes=None, train_images=None)
    splits = load_splits(other, root=origin.root, cache=origin.cache, seed=origin.seed)
    origin.check(repr(source), source, splits.train.identity)
    return splits


def sample(labels: Tensor, rows: Tensor, data: Data, seed: int = 0) -> Tensor:
    """`data.train_images` of `rows` with each class's share, or all rows if there are not more."""
    if data.train_images is None or data.train_images >= len(rows):
        return rows
    return rows[stratified_split(labels[rows], data.train_images / len(rows), data.val_seed(seed))[1]]
