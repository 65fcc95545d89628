"""Snapshots of sweeps from their ledgers, read again only after a change, since many users may watch one sweep.

A change shows in the service's own database, where the dispatcher records what it reads in the ledger.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from ssl_sweep.knobs.objective import Objective, parse_objectives
from ssl_sweep.ledger.entries import LedgerError, Trial
from ssl_sweep.ledger.open import read_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.drivers import LOOK_SHARE
from ssl_sweep.service.store import Submission
from ssl_sweep.tables.labels import Key, row_name
from ssl_sweep.trialdir.states import TrialState

MAX_SWEEPS = 16  # in memory
MAX_AGE_S = 60.0  # for changes that the dispatcher did not record
T = TypeVar("T")


@dataclass(frozen=True)
class TrialRow:
    """A trial, its knobs, and begin and end of its last attempt in Unix seconds, if the service saw them."""

    trial: Trial
    knobs: Mapping[str, Any]
    label: str
    began: float | None
    ended: float | None

    @property
    def seconds(self) -> float | None:
        """Duration of its last attempt."""
        return None if self.began is None or self.ended is None else self.ended - self.began

    @cached_property
    def text(self) -> str:
        """The text in which a search looks for words."""
        trial = self.trial
        words = (trial.trial_id, trial.state, self.label, f"seed={trial.seed}", f"choice={trial.choice}")
        return "\n".join([*words, trial.reason or "", trial.message or ""]).lower()


@dataclass(frozen=True)
class Snapshot:
    """A sweep at one moment."""

    name: str
    spec: Mapping[str, Any]
    total: int
    rows: tuple[TrialRow, ...]
    created: float
    _made: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def knobs(self) -> tuple[str, ...]:
        """Paths of the searched knobs that any trial has."""
        return tuple(dict.fromkeys(path for row in self.rows for path in row.knobs))

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """The one or two objectives; empty if the spec has none."""
        return parse_objectives((self.spec.get("search") or {}).get("objective"))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of complete trials, the objectives first, then the table's."""
        first = [objective.metric for objective in self.objectives]
        measured = {name for row in self.rows for name in row.trial.results or ()}
        columns = [name for name in (self.spec.get("table") or {}).get("columns") or () if name in measured]
        return tuple(dict.fromkeys([*first, *columns, *sorted(measured)]))

    def metric(self, requested: str | None) -> str:
        """The requested metric if it was measured, or the objective."""
        return requested if requested in self.metrics else next(iter(self.metrics), "")

    def lowest(self, metric: str) -> bool:
        """Whether lower values of a metric are better."""
        from ssl_sweep.tables.pivot import lower_is_better  # with pandas

        return lower_is_better(metric, self.objectives)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Make something from this snapshot, at most once for each key."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    key: str = ""
    snapshot: Snapshot | None = None
    read: float = 0.0  # by the monotonic clock
    seconds: float = 0.0  # that reading took


class Snapshots:
    """The newest snapshot of each watched sweep."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, service: Dispatcher, submission: Submission) -> Snapshot:
        """A sweep as it is now, or was a moment ago. Raises LedgerUnreachableError."""
        entry, key = self._entry(submission.id), _key(submission)
        if entry.snapshot is not None and entry.lock.locked():
            return entry.snapshot  # another request reads the next one
        with entry.lock:
            if entry.snapshot is None or _is_due(entry, key):
                began = time.monotonic()
                entry.snapshot, entry.key = _read(service, submission), key
                entry.read = time.monotonic()
                entry.seconds = entry.read - began
            return entry.snapshot

    def _entry(self, number: str) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(number, _Entry())
            self._entries.move_to_end(number)
            if len(self._entries) > MAX_SWEEPS:
                self._entries.popitem(last=False)
            return entry


def _is_due(entry: _Entry, key: str) -> bool:
    """Whether to read the ledger again; at most a tenth of the time is spent on reading."""
    age = time.monotonic() - entry.read
    return age > min(LOOK_SHARE * entry.seconds, MAX_AGE_S) and (key != entry.key or age > MAX_AGE_S)


def _key(submission: Submission) -> str:
    return json.dumps([submission.state, submission.attempt, dict(submission.counts)])


def _read(service: Dispatcher, submission: Submission) -> Snapshot:
    times = _times(service, submission)
    created = submission.launched or submission.created
    try:
        with read_ledger(service.settings.storage.ledger_url, submission.name) as ledger:
            rows = tuple(_row(trial, ledger, times) for trial in ledger.trials)
            spec = ledger.spec.model_dump(mode="json")
            return Snapshot(submission.name, spec, ledger.total, rows, created)
    except LedgerError:  # its driver has not begun
        return Snapshot(submission.name, submission.spec, int(submission.counts.get("total") or 0), (), created)


def _row(trial: Trial, ledger: LedgerReader, times: Mapping[str, tuple[float | None, float | None]]) -> TrialRow:
    knobs = ledger.choice(trial.choice).knobs
    label = row_name(Key(knobs.values()), list(knobs))
    return TrialRow(trial, knobs, label, *times.get(trial.trial_id, (None, None)))


def _times(service: Dispatcher, submission: Submission) -> dict[str, tuple[float | None, float | None]]:
    """When each trial's last attempt began and ended, as the dispatcher saw it."""
    times: dict[str, tuple[float | None, float | None]] = {}
    for event in service.store.events(submission.id, kind="trial"):
        began = times.get(event["trial_id"], (None, None))[0]
        is_begin = event["trial_state"] == TrialState.RUNNING
        times[event["trial_id"]] = (event["time"], None) if is_begin else (began, event["time"])
    return times
