"""Hashes of files' contents: of all bytes where a set has at most `WHOLE_BYTES`, else of parts of its files.

Beyond the limit, all files of `EVERY_BYTES` or more are compared, and every n-th of the others, at most `SAMPLED` of
them. Of each, `PART` bytes are read at the beginning, at the end, and at every multiple of `EVERY_BYTES`. Which parts
are read depends on the file's size alone, so that its hash stays where other files come or go.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ssl_sweep.data.items import File
from ssl_sweep.trialdir import watchdog

WHOLE_BYTES = 1_000_000_000  # of all files of a set together
SAMPLED = 4096  # files, at most, beside the large ones
EVERY_BYTES = 16 * 1024**2
PART = 32 * 1024
CHUNK = 1024**2  # bytes in memory at a time, in each thread
THREADS = 8  # on a network's disk a read waits
PROGRESS_S = 5.0
PARTS = "parts-"  # before the hash of a file that is not read whole

log = logging.getLogger(__name__)

Named = tuple[str, File]


def content_hashes(files: Sequence[Named]) -> Iterator[tuple[str, str]]:
    """Name and hash of the files whose contents are compared, in their order, out of all `files` of a set."""
    whole = sum(max(0, file.size) for _, file in files) <= WHOLE_BYTES
    chosen = files if whole else _sample(files)
    started = reported = time.monotonic()
    for done, ((name, _), found) in enumerate(zip(chosen, _in_threads(chosen, whole), strict=True), start=1):
        yield name, found
        watchdog.heartbeat()
        now = time.monotonic()
        if now - reported > PROGRESS_S or (done == len(chosen) and now - started > PROGRESS_S):
            log.info("comparing contents of files: %s/%s", f"{done:,}", f"{len(chosen):,}")
            reported = now


def _sample(files: Sequence[Named]) -> list[Named]:
    small = [named for named in files if named[1].size < EVERY_BYTES]
    kept = {name for name, _ in small[:: len(small) // SAMPLED + 1]}
    return [named for named in files if named[1].size >= EVERY_BYTES or named[0] in kept]


def _in_threads(files: Sequence[Named], whole: bool) -> Iterator[str]:
    waiting: deque[Future[str]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for _, file in files:
            waiting.append(pool.submit(_content, file, whole))
            if len(waiting) > 16 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _content(file: File, whole: bool) -> str:
    spans = [(0, file.size)] if whole or file.size <= 2 * PART else _parts(file.size)
    hashed = hashlib.sha256()
    try:
        with open(file.path, "rb") as opened:
            for first, length in spans:
                opened.seek(first)
                while length > 0 and (read := opened.read(min(CHUNK, length))):
                    hashed.update(read)
                    length -= len(read)
                    watchdog.heartbeat()
    except OSError:  # decoding reports it, under the policy for corrupt images
        return "unreadable"
    return f"{PARTS if len(spans) > 1 else ''}{hashed.hexdigest()[:16]}"


def _parts(size: int) -> list[tuple[int, int]]:
    """Beginning and length of each part that is read of a file of over two parts, in bytes."""
    last = size - PART
    return [(first, PART) for first in (*range(0, last, EVERY_BYTES), last)]
