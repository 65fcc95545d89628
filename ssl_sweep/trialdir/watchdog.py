"""Ends a process whose trial hangs, and leaves a dump of its threads' stacks in the trial's folder.

The timer is faulthandler's, which needs no GIL: it also ends a process that hangs in native code. faulthandler has one
timer per process, hence the global state: a process runs one trial at a time.
"""

import faulthandler
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from ssl_sweep.trialdir.processes import Process, this_process

DUMP, HEARTBEAT_FILE = "hung.txt", "alive"
BEAT_S = 1.0  # between heartbeats that are written: each takes system calls, and a training step may take 1 ms
FRAMES = 3  # of a stack, in a message

_watch: "_Watch | None" = None


@contextmanager
def watched(folder: Path, timeout: float | None) -> Iterator[None]:
    """While the block runs, end the process after `timeout` seconds (None: never) without a heartbeat."""
    global _watch
    with (folder / DUMP).open("w") as file:
        _watch = _Watch(timeout, file, folder)
        (folder / HEARTBEAT_FILE).write_text(json.dumps(asdict(this_process())))
        _watch.beat()
        try:
            yield
        finally:
            _watch = None
            faulthandler.cancel_dump_traceback_later()
    (folder / DUMP).unlink(missing_ok=True)


def heartbeat() -> None:
    """Report that the trial makes progress. Call it at every step: all but one call a second cost next to nothing."""
    if _watch is not None and time.monotonic() - _watch.beaten >= _watch.every:
        _watch.beat()


@contextmanager
def waiting() -> Iterator[None]:
    """Pause the timer while the block waits for another process."""
    faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        if _watch is not None:
            _watch.beat()


def folder() -> Path | None:
    """The folder of the trial that this process runs; None outside of one."""
    return _watch.folder if _watch is not None else None


def silence_s() -> float:
    """Seconds since the trial's last heartbeat; 0 outside of a trial."""
    return time.monotonic() - _watch.beaten if _watch is not None else 0.0


def process_of(alive: Path) -> Process | None:
    """The process that a heartbeat's file names; None if there is none, or it is being written."""
    try:
        return Process(**json.loads(alive.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def take_dump(folder: Path) -> str | None:
    """Read and remove the dump of an attempt that was ended for hanging; None if there is none."""
    path = folder / DUMP
    try:
        dump = path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    path.unlink(missing_ok=True)
    return dump or None


def summary(dump: str) -> str:
    """How long the attempt gave no heartbeat, and the innermost frames of the thread that ran it."""
    silent = re.match(r"Timeout \((.+?)\)", dump)
    threads = dump.split("\n\n")
    trial = next((thread for thread in threads if re.search(r'attempt\.py", line \d+ in attempt', thread)), threads[0])
    frames = re.findall(r'File "(?:.*/)?(.+?)", line (\d+) in (\S+)', trial)
    where = " < ".join(f"{function} ({file}:{line})" for file, line, function in frames[:FRAMES])
    return f"no sign of life for {silent[1] if silent else 'too long'}; it was in {where}"


class _Watch:
    """The timer of one attempt. A heartbeat touches the folder's `HEARTBEAT_FILE`, which names the process."""

    def __init__(self, timeout: float | None, file: IO[str], folder: Path) -> None:
        self.timeout, self.file, self.folder = timeout, file, folder
        self.every = BEAT_S if timeout is None else min(BEAT_S, timeout / 4)
        self.beaten = 0.0

    def beat(self) -> None:
        self.beaten = time.monotonic()
        if self.timeout is not None:
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=self.file)
        with suppress(OSError):  # a full disk is reported by the trial's own writes
            (self.folder / HEARTBEAT_FILE).touch()
