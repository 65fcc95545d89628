"""Ends a process whose trial shows no sign of life, and leaves in the trial's folder where its threads stood.

The timer is faulthandler's, whose thread needs no GIL: it also ends a process that hangs in native code. There is one
timer a process, and so is the state here: a process runs one trial at a time.
"""

import faulthandler
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

DUMP, HEARTBEAT_FILE = "hung.txt", "alive"
BEAT_S = 1.0  # a sign of life costs a few system calls, and training steps may take a millisecond
FRAMES = 3  # in a message

_watch: "_Watch | None" = None


@contextmanager
def watched(folder: Path, timeout: float | None) -> Iterator[None]:
    """Watch while the block runs: after `timeout` seconds (None: never) without a sign of life the process ends."""
    global _watch
    with (folder / DUMP).open("w") as file:
        _watch = _Watch(timeout, file, [folder / HEARTBEAT_FILE])
        _watch.beat()
        try:
            yield
        finally:
            _watch = None
            faulthandler.cancel_dump_traceback_later()
    (folder / DUMP).unlink(missing_ok=True)


def heartbeat() -> None:
    """A sign of life. To be called at every step: all but one a second cost next to nothing."""
    if _watch is not None and time.monotonic() - _watch.beaten >= _watch.every:
        _watch.beat()


@contextmanager
def waiting() -> Iterator[None]:
    """Do not watch while the block runs, which waits for somebody else's answer."""
    faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        if _watch is not None:
            _watch.beat()


@contextmanager
def marking(mark: Path) -> Iterator[None]:
    """While the block runs, each sign of life also touches this file, for whoever waits for this trial."""
    marks = _watch.marks if _watch is not None else []
    marks.append(mark)
    try:
        yield
    finally:
        marks.remove(mark)


def take_dump(folder: Path) -> str | None:
    """Where the threads stood of an attempt that was ended here, once; None where none was."""
    path = folder / DUMP
    try:
        dump = path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    path.unlink(missing_ok=True)
    return dump or None


def summary(dump: str) -> str:
    """How long it was silent, and the innermost frames of the thread that ran the trial."""
    silent = re.match(r"Timeout \((.+?)\)", dump)
    threads = dump.split("\n\n")
    trial = next((each for each in threads if re.search(r'attempt\.py", line \d+ in attempt', each)), threads[0])
    frames = re.findall(r'File "(?:.*/)?(.+?)", line (\d+) in (\S+)', trial)
    where = " < ".join(f"{function} ({file}:{line})" for file, line, function in frames[:FRAMES])
    return f"no sign of life for {silent[1] if silent else 'too long'}; it was in {where}"


class _Watch:
    """The timer of one attempt. `marks` are the files that a sign of life touches."""

    def __init__(self, timeout: float | None, file: IO[str], marks: list[Path]) -> None:
        self.timeout, self.file, self.marks = timeout, file, marks
        self.every = BEAT_S if timeout is None else min(BEAT_S, timeout / 4)
        self.beaten = 0.0

    def beat(self) -> None:
        self.beaten = time.monotonic()
        if self.timeout is not None:
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=self.file)
        with suppress(OSError):  # a full disk is told by what the trial has to write
            for mark in self.marks:
                mark.touch()
