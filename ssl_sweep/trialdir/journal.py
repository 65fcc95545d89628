"""A trial's append-only event log: one JSON object a line, on disk before anybody else hears of it.

The journal is the spool towards MLflow: a trial writes only here, and whoever shows trials reads here, later and as
often as needed. Events: `attempt`, `report`, `stage`, `artifact`, `tags`, `note`, `end`; every one carries `time` in
unix seconds. JSON knows neither nan nor infinity, so these stand as the strings "nan", "inf" and "-inf" and are turned
back in an event's `metrics` and `results`.
"""

import errno
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"
MAX_LINE_BYTES = 256 * 1024
MAX_MESSAGE = 2_000  # characters, of an end event's message
MAX_TRACEBACK = 20_000  # characters, the last ones: they name the error

Event = dict[str, Any]


class JournalError(ValueError):
    """A journal holds a line that is no event."""


class Journal:
    """Appends events to `folder/journal.jsonl`; one writer at a time.

    Opening cuts off a last line that a killed writer left unfinished, and reads which metrics have been reported.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL
        _cut_unfinished_line(self.path)
        self._reported = {
            (name, event["step"])
            for event in read(folder)[0]
            if event["event"] == "report"
            for name in event["metrics"]
        }

    def append(self, event: str, **fields: Any) -> None:
        """Writes one event and returns when the disk has it; `time` may be given, the clock's is the default."""
        _write_line(self.path, _encode({"time": time.time(), "event": event, **_bounded(fields)}))

    def report(self, metrics: Mapping[str, float], step: int) -> bool:
        """Appends those metrics that no attempt has reported for this step yet; says whether there were any.

        A resumed trial repeats the work since its last checkpoint and reports it again: the first report stands.
        """
        new = {name: float(value) for name, value in metrics.items() if (name, step) not in self._reported}
        if not new:
            return False
        self.append("report", metrics=new, step=step)
        self._reported.update((name, step) for name in new)
        return True


def read(folder: Path, start: int = 0, end: int | None = None) -> tuple[list[Event], int]:
    """The whole lines from byte `start` to `end` (or the end of the file), and the offset after the last of them.

    A line still being written is left for the next read; no journal reads as no events. Raises JournalError.
    """
    path = folder / JOURNAL
    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read() if end is None else file.read(end - start)
    except FileNotFoundError:
        return [], start
    events = []
    for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
        events.append(_decode(line, path, start))
        start += len(line)
    return events, start


def _cut_unfinished_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LINE_BYTES))
        tail = file.read()
        whole = size - len(tail) + tail.rfind(b"\n") + 1
        if whole < size:
            file.truncate(whole)


def _write_line(path: Path, line: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, f"wrote {written} of {len(line)} bytes, the disk is full", str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)  # half a line would spoil the next one
            raise


def _encode(event: Event) -> bytes:
    text = json.dumps(_finite(event), ensure_ascii=False, allow_nan=False)
    line = text.encode("utf-8", "replace") + b"\n"  # a file name that is not UTF-8 must not cost a trial
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(
            f"journal event {event['event']!r} has {len(line)} bytes, at most {MAX_LINE_BYTES} are taken: "
            "write the content to a file of the trial folder and append an 'artifact' event with its path"
        )
    return line


def _decode(line: bytes, path: Path, offset: int) -> Event:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise JournalError(f"{path}, byte {offset}: not a line of JSON ({error}); remove that line") from error
    if not isinstance(event, dict) or not {"time", "event"} <= event.keys():
        raise JournalError(f"{path}, byte {offset}: no event with its time ({line[:80]!r}); remove that line")
    for key in ("metrics", "results"):
        if key in event:
            event[key] = {name: _number(value) for name, value in event[key].items()}
    return event


def _bounded(fields: Mapping[str, Any]) -> dict[str, Any]:
    bounded = dict(fields)
    if bounded.get("message"):
        bounded["message"] = str(bounded["message"])[:MAX_MESSAGE]
    if bounded.get("traceback"):
        bounded["traceback"] = str(bounded["traceback"])[-MAX_TRACEBACK:]
    return bounded


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value
