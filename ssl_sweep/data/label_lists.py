"""Lists of the training images whose labels a fraction uses, such as the official 1 % and 10 % of ImageNet.

A list is a text file with the name of an image a line, as `n01440764_10026.JPEG` or `n01440764/n01440764_10026.JPEG`.
It is written `PERCENT:FILE`; a relative file is below the folder of the data.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_sweep.data.identity import identity
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, ImageList, Source, stat_file
from ssl_sweep.data.paths import path_of
from ssl_sweep.data.splits import Splits, open_data

NAME = "label_lists"  # of the lists together among the sources that an evaluation opens
PLACE = "evaluate.semi_supervised.label_lists"
MAX_BYTES = 200_000_000
MAX_NAMED = 3


def open_lists(written: Sequence[str], root: Path) -> Source | None:
    """The lists as a source that holds no images, so that a sweep knows when they change; None without any.

    Raises:
        DataError: a file is missing, unreadable, or names no image.
    """
    if not written:
        return None
    names = [f"{each} {name}" for each in written for name in _read(each, root)]
    lists = ImageList(np.zeros(len(names), dtype=np.int64), names.__getitem__, _no_image)
    return Source(NAME, {"kind": NAME}, lambda: Contents(lists, lists.select(np.arange(0)), ("image",)))


def listed_rows(splits: Splits, written: str, all_written: Sequence[str]) -> Tensor:
    """The rows (N,) of the training split that a list names, ascending; images held out for validation stay so.

    all_written: the lists of the evaluation, which must be those that the sweep began with.

    Raises:
        DataError: the list names an image that the training images lack, or by a name that several have.
    """
    origin = splits.origin
    if origin is None:
        raise DataError(
            f"{PLACE}: {written!r}: these splits were not opened from a source, so that images have no names"
        )
    lists = open_lists(all_written, origin.root)
    if lists is not None:
        origin.check(PLACE, NAME, identity(lists))
    images, skipped = open_data(origin.data, root=origin.root).train, set(splits.train.skipped)
    names = [name for row in range(len(images)) if (name := images.name(row)) not in skipped]
    places = _places(written, _read(written, origin.root), names, skipped)
    found = torch.isin(torch.from_numpy(splits.train.rows), torch.tensor(places, dtype=torch.int64))
    if not bool(found.any()):
        raise DataError(
            f"{PLACE}: {written!r}: every image of the list is held out for validation, or of other classes"
        )
    return found.nonzero().flatten()


def _places(written: str, wanted: Sequence[str], names: Sequence[str], skipped: set[str]) -> list[int]:
    """The positions of the wanted images among all names of the training images."""
    by_file: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        by_file[name.rpartition("/")[2]].append(place)
    places, lost = [], []
    unreadable = {name.rpartition("/")[2] for name in skipped}
    for name in wanted:
        file = name.rpartition("/")[2]
        same = [place for place in by_file.get(file, ()) if f"/{names[place]}".endswith(f"/{name}")]
        if len(same) > 1:
            raise DataError(f"{PLACE}: {written!r}: {len(same)} images end in {name!r}; write more of the path")
        if not same and file not in unreadable:
            lost.append(name)
        places += same
    if lost:
        listed = ", ".join(map(repr, lost[:MAX_NAMED])) + (", ..." if len(lost) > MAX_NAMED else "")
        example = f", as {names[0]!r}" if names else ""
        raise DataError(
            f"{PLACE}: {written!r}: {len(lost)} are no training images ({listed}); name them by file{example}"
        )
    return places


def _read(written: str, root: Path) -> list[str]:
    path = path_of(written.partition(":")[2], root, PLACE)
    try:
        if stat_file(path).size > MAX_BYTES:
            raise DataError(f"{PLACE}: {written!r}: {path} has over {MAX_BYTES:,} bytes; name a list of images")
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        remedy = "name a text file with the name of an image a line"
        raise DataError(f"{PLACE}: {written!r}: {path} cannot be read ({error}); {remedy}") from None
    names = list(dict.fromkeys(name.removeprefix("./") for name in names if name and not name.startswith("#")))
    if not names:
        raise DataError(f"{PLACE}: {written!r}: {path} names no image; write the name of one a line")
    return names


def _no_image(row: int) -> Image.Image:
    raise DataError(f"{PLACE}: a list has no images")
