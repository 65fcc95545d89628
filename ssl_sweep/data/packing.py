"""Writes a pack: decodes in threads, streams to disk, and syncs every file."""

import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from ssl_sweep.data.decode import UNREADABLE, decode
from ssl_sweep.data.identity import identity
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import ImageList, Source, put_together
from ssl_sweep.trialdir import watchdog
from ssl_sweep.trialdir.atomic import sync_folder

BOTH = ("train", "test")
WHOLE = ("train",)  # with the images that were held out of it by seed
THREADS = min(16, os.cpu_count() or 1)
PROGRESS_SECONDS = 5.0

log = logging.getLogger(__name__)

Decoded = NDArray[np.uint8] | DataError  # (3, H, W), or the file's defect
OnError = Literal["raise", "skip"]


def write_packs(source: Source, folder: Path, splits: Sequence[str], on_error: OnError, short_side: int | None) -> None:
    """Decode `BOTH` splits of `source`, or the `WHOLE`, into the new `folder`; on return it is complete and on disk.

    Raises DataError for a corrupt image, unless on_error is "skip", and when no image of a split can be decoded.
    """
    contents, skipped = put_together(source.contents) if splits == WHOLE else source.contents, {}
    for split in splits:
        images = contents.train if split == "train" else contents.test
        (folder / split).mkdir(parents=True)
        skipped[split] = write_split(images, folder / split, on_error, short_side)
    meta = {
        "source": source.name,
        "fingerprint": source.fingerprint,
        "identity": identity(source),
        "made": [*splits, on_error, short_side],
        "classes": source.classes,
        "skipped": skipped,
    }
    with (folder / "meta.json").open("wb") as file:
        file.write(json.dumps(meta, indent=1).encode())
        sync(file)
    sync_folder(folder)


def write_split(images: ImageList, folder: Path, on_error: OnError, short_side: int | None) -> list[str]:
    """Decode `images` into `folder`; returns the names of those left out."""
    sizes: list[tuple[int, ...]] = []
    kept: list[int] = []
    skipped: list[str] = []
    first: DataError | None = None
    with (folder / "pixels.u8").open("wb") as file:
        for row, decoded in enumerate(report_progress(decode_all(images, short_side), folder.name, len(images))):
            if not isinstance(decoded, DataError):
                file.write(decoded.data)
                sizes.append(decoded.shape[1:])
                kept.append(row)
            elif on_error == "raise":
                raise DataError(f"{decoded}; replace or remove it, or set data.on_error: skip")
            else:
                log.warning("left out %s", decoded)
                first = first or decoded
                skipped.append(images.name(row))
        sync(file)
    if not kept:
        raise DataError(f"no image of the {folder.name} split can be decoded; the first: {first or 'there is none'}")
    write_array(folder / "sizes.npy", np.array(sizes, dtype=np.int64))
    write_array(folder / "labels.npy", images.labels[kept])
    sync_folder(folder)
    return skipped


def decode_all(images: ImageList, short_side: int | None) -> Iterator[Decoded]:
    """Each image in order, or why it cannot be decoded. Few are in memory at a time, however slow the disk."""
    waiting: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for row in range(len(images)):
            waiting.append(pool.submit(decode_row, images, row, short_side))
            if len(waiting) > 4 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def decode_row(images: ImageList, row: int, short_side: int | None) -> Decoded:
    try:
        return decode(images.image(row), short_side)
    except UNREADABLE as error:
        return DataError(f"{images.name(row)}: not a readable image ({error})")


def report_progress(items: Iterable[Decoded], split: str, total: int) -> Iterator[Decoded]:
    reported = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        watchdog.heartbeat()
        if done == total or time.monotonic() - reported > PROGRESS_SECONDS:
            log.info("packing %s: %s/%s", split, f"{done:,}", f"{total:,}")
            reported = time.monotonic()


def write_array(path: Path, array: NDArray[np.int64]) -> None:
    with path.open("wb") as file:
        np.save(file, array)
        sync(file)


def sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
