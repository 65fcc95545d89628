"""The journals of a sweep, and the offset up to which each has been delivered."""

import json
import os
import threading
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.atomic import replacing
from ssl_sweep.trialdir.damage import DamagedFileError, read_text, readable
from ssl_sweep.trialdir.events import Event
from ssl_sweep.trialdir.journal import JOURNAL

SWEEP = ""  # name of the sweep's own journal; the others have their trial's id
SUMMED_BYTES = 512  # before an offset
REMEDY = "remove it: everything is delivered again, which changes nothing that MLflow has"
CHUNK_BYTES = 1 << 20  # one read; bounds memory and the repetition after a failure; exceeds MAX_LINE_BYTES


class Spool:
    """The undelivered events in `STORAGE/SWEEP/**/journal.jsonl`; used by two threads.

    `recorded.json` holds the offsets, the run that they belong to, and a checksum of the text before each offset;
    without it everything is delivered again.
    """

    def __init__(self, folder: Path) -> None:
        """Raises DamagedFileError: `recorded.json` is a folder, is not UTF-8, or may not be read."""
        self.folder = folder
        self._trials = str(folder / "trials")
        self._lock = threading.Lock()
        self._destination: str | None = None
        self._offsets: dict[str, int] = {}
        self._sums: dict[str, int] = {}
        self._read_sums: dict[str, int] = {}  # of what was read last, and is not delivered yet
        self._replaced = set[str]()  # journals that are not those that were delivered
        self._saved: dict[str, int] = {}
        self._load()

    def set_destination(self, destination: str) -> None:
        """Set the parent run; for another run than before, delivery starts from the first event."""
        if destination != self._destination:
            with self._lock:
                self._destination, self._offsets = destination, {}

    def undelivered_journals(self) -> list[str]:
        """Names of the journals with undelivered events, the sweep's own first."""
        with self._lock:
            return [name for name in self._names() if self._has_undelivered(name)]

    def read(self, name: str) -> tuple[list[Event], int]:
        """The next events of a journal, about 1 MB at most, and the offset to accept once they are delivered.

        A journal that is another than was delivered is read from its first event. Raises DamagedFileError.
        """
        path, start = folder_of(self.folder, name) / JOURNAL, self._offsets.get(name, 0)
        first = max(0, start - SUMMED_BYTES)
        try:
            with readable(path), path.open("rb") as file:  # opened once: the journal may be replaced at any time
                file.seek(first)
                before, text = file.read(start - first), file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return [], start
        if start and self._sums.get(name) not in (None, zlib.crc32(before)):
            with self._lock:
                self._restart(name)
            return self.read(name)
        events, end = journal.parse(text, path, start)
        self._read_sums[name] = zlib.crc32((before + text)[: end - first][-SUMMED_BYTES:])
        return events, end

    def delivered(self, name: str) -> list[Event]:
        """The delivered events of a journal."""
        return journal.read(folder_of(self.folder, name), 0, self._offsets.get(name, 0))[0]

    def mark_delivered(self, name: str, offset: int) -> None:
        """Record that the events of the last `read`, which end at `offset`, are delivered."""
        with self._lock:
            self._offsets[name], self._sums[name] = offset, self._read_sums[name]

    def is_replaced(self, name: str) -> bool:
        """Whether a journal is another than was delivered, as of a restored folder; says so once."""
        with self._lock:
            was_replaced = name in self._replaced
            self._replaced.discard(name)
            return was_replaced

    def rewind(self, name: str) -> bool:
        """Restart a journal from its first event; returns whether any event had been delivered."""
        with self._lock:
            return bool(self._offsets.pop(name, 0))

    def reset(self) -> None:
        """Restart all journals from their first events."""
        with self._lock:
            self._offsets = {}

    def pending(self, without: Collection[str] = ()) -> int:
        """The number of undelivered events, of all journals but these."""
        with self._lock:
            offsets = dict(self._offsets)
        return sum(
            _lines(folder_of(self.folder, name) / JOURNAL, offsets.get(name, 0))
            for name in self.undelivered_journals()
            if name not in without
        )

    def save(self) -> None:
        """Write the offsets if they have changed."""
        with self._lock:
            if self._offsets == self._saved:
                return
            self._saved = dict(self._offsets)
            text = json.dumps({"destination": self._destination, "offsets": self._saved, "sums": self._sums})
        with replacing(self._path) as partial:
            partial.write_text(text)

    @property
    def _path(self) -> Path:
        return self.folder / "recorded.json"

    def _load(self) -> None:
        with suppress(FileNotFoundError, json.JSONDecodeError):  # not written yet, or cut off by a power failure
            saved = json.loads(read_text(self._path, REMEDY))
            if not isinstance(saved, dict) or not isinstance(offsets := saved.get("offsets"), dict):
                return  # damaged: everything is delivered again, which changes nothing that has arrived
            if all(isinstance(offset, int) for offset in offsets.values()):
                self._destination, self._offsets = saved.get("destination"), offsets
                self._sums = saved.get("sums") or {}  # earlier versions had none
                self._saved = dict(self._offsets)

    def _names(self) -> list[str]:
        try:
            return [SWEEP, *sorted(entry.name for entry in os.scandir(self._trials))]
        except FileNotFoundError:
            return [SWEEP]

    def _has_undelivered(self, name: str) -> bool:
        path = f"{self._trials}/{name}/{JOURNAL}" if name else f"{self.folder}/{JOURNAL}"
        offset = self._offsets.get(name, 0)
        try:
            size = os.stat(path).st_size
            same = offset in (0, size) or (size > offset and self._sums.get(name) in (None, _checksum(path, offset)))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (IsADirectoryError, PermissionError):  # who reads it says so
            return True
        if not same:
            self._restart(name)
        return size > self._offsets.get(name, 0)

    def _restart(self, name: str) -> None:
        self._offsets[name] = 0
        self._replaced.add(name)


def folder_of(sweep: Path, name: str) -> Path:
    """The folder of a journal in a sweep's folder."""
    return sweep / "trials" / name if name else sweep


def _checksum(path: str | Path, offset: int) -> int:
    """A checksum of the last line before an offset, which has its time: of the last bytes of a long one."""
    with open(path, "rb") as file:
        file.seek(max(0, offset - SUMMED_BYTES))
        return zlib.crc32(file.read(min(offset, SUMMED_BYTES)))


def _lines(path: Path, offset: int) -> int:
    """The number of lines from a byte on; 1 of a journal that cannot be read."""
    try:
        with readable(path), path.open("rb") as file:
            file.seek(offset)
            return file.read().count(b"\n")
    except DamagedFileError:
        return 1
