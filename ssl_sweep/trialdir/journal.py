"""A trial's append-only event log: one JSON object per line, on disk before anyone else learns of the event.

A trial writes its events only here. MLflow, the status and the board are fed from here. `events.py` has the events.
JSON has no nan and no infinities: the file has the strings "nan", "inf" and "-inf"; `metrics` and `results` are read
back as numbers.
"""

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssl_sweep.trialdir.damage import DamagedFileError, readable
from ssl_sweep.trialdir.events import (
    Event,
    MetricsReported,
    PretrainingFinished,
    StageFinished,
    StageStarted,
    TagsSet,
    event_type,
)

JOURNAL = "journal.jsonl"
MAX_LINE_BYTES = 256 * 1024
MAX_MESSAGE = 2_000  # characters
MAX_TRACEBACK = 20_000  # characters; the last ones are kept, which name the error
REMEDY = "remove that line, as `ssl-sweep doctor --mend` does, with the same --storage"


class JournalError(DamagedFileError):
    """A line of a journal is not an event."""


class Journal:
    """Appends events to `folder/journal.jsonl`. One writer at a time.

    Opening removes an unfinished last line of a killed writer, and reads which metrics unfinished stages have reported.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL
        _cut_unfinished_line(self.path)
        self._reported: set[tuple[str, int]] = set()
        self._begun: dict[str, str] = {}  # the keys of unfinished stages
        for event in read(folder)[0]:
            self._note(event)

    def append(self, event: Event) -> None:
        """Append one event; returns when it is on disk."""
        _write_line(self.path, encode(event))
        self._note(event)

    def append_once(self, event: Event) -> bool:
        """Append an event unless the journal has an equal one, at any time; returns whether it was appended."""
        known = any(type(old) is type(event) and old.fields() == event.fields() for old in read(self.path.parent)[0])
        if not known:
            self.append(event)
        return not known

    def report(self, metrics: Mapping[str, float], step: int) -> bool:
        """Append the metrics that their stage has not reported for this step; returns whether there were any.

        A resumed stage repeats and reports the steps since its last checkpoint: the first report is kept. A stage that
        was finished and runs again, or under another key, reports all steps anew.
        """
        new = {name: float(value) for name, value in metrics.items() if (name, step) not in self._reported}
        if not new:
            return False
        self.append(MetricsReported(metrics=new, step=step))
        return True

    def begin(self, stage: str, key: str) -> None:
        """Start a stage, or continue it where an earlier attempt has begun and not finished it under the same key."""
        if self._begun.get(stage) != key:
            self.append(StageStarted(stage=stage, key=key))

    def _note(self, event: Event) -> None:
        match event:
            case MetricsReported(metrics=metrics, step=step):
                self._reported.update((name, step) for name in metrics)
            case StageStarted(stage=stage, key=key):
                self._begun[stage] = key
                self._forget(stage)
            case StageFinished(stage=stage):
                self._begun.pop(stage, None)
                self._forget(stage)
            case PretrainingFinished():
                self._reported.clear()

    def _forget(self, stage: str) -> None:
        self._reported = {(name, step) for name, step in self._reported if name.rpartition("/")[0] != stage}


def read(folder: Path, start: int = 0, end: int | None = None) -> tuple[list[Event], int]:
    """The events from byte `start` to `end` (None: the end of the file), and the offset after the last one.

    An unfinished last line is left for the next read. A missing file has no events.

    Raises:
        JournalError: a line is not an event.
        DamagedFileError: it is a folder, or may not be read.
    """
    path = folder / JOURNAL
    try:
        with readable(path), path.open("rb") as file:
            file.seek(start)
            text = file.read() if end is None else file.read(end - start)
    except FileNotFoundError:
        return [], start
    return parse(text, path, start)


def parse(text: bytes, path: Path, start: int) -> tuple[list[Event], int]:
    """The events of a part of a journal that begins with byte `start`, and the offset after the last one."""
    events = []
    whole = text.rfind(b"\n") + 1
    for line in text[:whole].splitlines(keepends=True):
        events.append(decode(line, path, start))
        start += len(line)
    if not _is_unfinished(text[whole:], is_first=start == 0):
        decode(text[whole:], path, start)
    return events, start


def has_tag(folder: Path, name: str, value: str) -> bool:
    """Whether a tag has had a value. Reads the lines of tags alone: a table may ask this of many trials."""
    path = folder / JOURNAL
    try:
        with readable(path), path.open("rb") as file:
            lines = [line for line in file if b'"tags"' in line and line.endswith(b"\n")]
    except FileNotFoundError:
        return False
    events = (decode(line, path, 0) for line in lines)
    return any(isinstance(event, TagsSet) and str(event.tags.get(name)) == value for event in events)


def last_event(folder: Path) -> Event | None:
    """The last event of a journal; None where there is none. Raises DamagedFileError."""
    path = folder / JOURNAL
    try:
        with readable(path), path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - MAX_LINE_BYTES)
            file.seek(start)
            tail = file.read()
    except FileNotFoundError:
        return None
    end = tail.rfind(b"\n")
    line = tail.rfind(b"\n", 0, max(0, end)) + 1
    return decode(tail[line : end + 1], path, start + line) if end >= 0 else None


def _is_unfinished(rest: bytes, *, is_first: bool) -> bool:
    """Whether what follows the last whole line is the start of a line; a power cut can leave zeros in its place."""
    return not rest or rest.startswith(b"{") or (not is_first and not rest.strip(b"\0"))


def _cut_unfinished_line(path: Path) -> None:
    if not path.exists():
        return
    with readable(path), path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LINE_BYTES))
        tail = file.read()
        whole = size - len(tail) + tail.rfind(b"\n") + 1
        if whole < size and _is_unfinished(tail[tail.rfind(b"\n") + 1 :], is_first=whole == 0):
            file.truncate(whole)


def _write_line(path: Path, line: bytes) -> None:
    with readable(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, f"wrote {written} of {len(line)} bytes, the disk is full", str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)  # half a line would spoil the next one
            raise


def encode(event: Event) -> bytes:
    """A journal's line of an event."""
    line = {"time": event.time, "event": event.name, **_bounded(event.fields())}
    text = json.dumps(_finite(line), ensure_ascii=False, allow_nan=False)
    encoded = text.encode("utf-8", "replace") + b"\n"  # a file name that is not UTF-8 must not fail a trial
    if len(encoded) > MAX_LINE_BYTES:
        raise ValueError(
            f"journal event {event.name!r} has {len(encoded)} bytes, at most {MAX_LINE_BYTES} are allowed: "
            "write the content to a file of the trial folder and append an 'artifact' event with its path"
        )
    return encoded


def decode(line: bytes, path: Path, offset: int) -> Event:
    """The event of a line at a byte of a journal. Raises JournalError."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise JournalError(f"{path}, byte {offset}: not a line of JSON ({error}); {REMEDY}") from error
    if not isinstance(fields, dict) or not {"time", "event"} <= fields.keys():
        raise JournalError(f"{path}, byte {offset}: not an event with a time ({line[:80]!r}); {REMEDY}")
    try:
        return event_type(fields).model_validate(fields)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, field['loc']))}: {field['msg']}" for field in error.errors())
        raise JournalError(f"{path}, byte {offset}: event {fields['event']!r}: {wrong}; {REMEDY}") from error


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
