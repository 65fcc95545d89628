"""The journals of a sweep, and how far each of them has been delivered."""

import json
import os
import threading
from pathlib import Path

from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.atomic import replacing
from ssl_sweep.trialdir.events import Event
from ssl_sweep.trialdir.journal import JOURNAL

SWEEP = ""  # the name of the sweep's own journal; the others are named by their trial
CHUNK_BYTES = 1 << 20  # of one read: bounds memory and what one delivery repeats after a failure; over MAX_LINE_BYTES


class Spool:
    """What lies in `STORAGE/SWEEP/**/journal.jsonl` and is not delivered yet; used by two threads.

    The offsets are kept in `recorded.json` with the run they were delivered to; without it all is delivered again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trials = str(folder / "trials")
        self._lock = threading.Lock()
        self._destination: str | None = None
        self._offsets: dict[str, int] = {}
        self._saved: dict[str, int] = {}
        self._load()

    def deliver_to(self, destination: str) -> None:
        """Says where events go; another place than before starts from the first event."""
        if destination != self._destination:
            with self._lock:
                self._destination, self._offsets = destination, {}

    def grown(self) -> list[str]:
        """Names of the journals with undelivered bytes, the sweep's own first."""
        with self._lock:
            return [name for name in self._names() if self._has_grown(name)]

    def read(self, name: str) -> tuple[list[Event], int]:
        """The next events of a journal, at most some 1 MB of them, and the offset to accept when they are delivered."""
        start = self._offsets.get(name, 0)
        return journal.read(folder_of(self.folder, name), start, start + CHUNK_BYTES)

    def delivered(self, name: str) -> list[Event]:
        """The events of a journal up to its offset."""
        return journal.read(folder_of(self.folder, name), 0, self._offsets.get(name, 0))[0]

    def accept(self, name: str, offset: int) -> None:
        """Everything before `offset` is delivered."""
        with self._lock:
            self._offsets[name] = offset

    def rewind(self, name: str) -> bool:
        """Has a journal delivered from its first event on; says whether any of it had been."""
        with self._lock:
            return bool(self._offsets.pop(name, 0))

    def forget(self) -> None:
        """Has everything delivered again."""
        with self._lock:
            self._offsets = {}

    def pending(self) -> int:
        """The number of whole events that are not delivered."""
        with self._lock:
            offsets = dict(self._offsets)
        return sum(_lines(folder_of(self.folder, name) / JOURNAL, offsets.get(name, 0)) for name in self.grown())

    def save(self) -> None:
        """Writes the offsets if they have changed."""
        with self._lock:
            if self._offsets == self._saved:
                return
            self._saved = dict(self._offsets)
            text = json.dumps({"destination": self._destination, "offsets": self._saved})
        with replacing(self._path) as partial:
            partial.write_text(text)

    @property
    def _path(self) -> Path:
        return self.folder / "recorded.json"

    def _load(self) -> None:
        try:
            saved = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):  # never written, or cut off by a power failure: deliver again
            return
        self._destination, self._offsets = saved["destination"], saved["offsets"]
        self._saved = dict(self._offsets)

    def _names(self) -> list[str]:
        try:
            return [SWEEP, *sorted(entry.name for entry in os.scandir(self._trials))]
        except FileNotFoundError:
            return [SWEEP]

    def _has_grown(self, name: str) -> bool:
        try:
            size = os.stat(f"{self._trials}/{name}/{JOURNAL}" if name else f"{self.folder}/{JOURNAL}").st_size
        except (FileNotFoundError, NotADirectoryError):
            return False
        if size < self._offsets.get(name, 0):
            self._offsets[name] = 0  # another journal than the one that was delivered
        return size > self._offsets.get(name, 0)


def folder_of(sweep: Path, name: str) -> Path:
    """Where the journal of that name lies in a sweep's folder."""
    return sweep / "trials" / name if name else sweep


def _lines(path: Path, offset: int) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().count(b"\n")
