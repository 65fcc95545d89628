"""A sweep as its ledger has it, read anew only after something has happened in it: many may watch it.

That something has happened is seen in the service's own database, where the loop notes what it finds in the ledger.
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
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.service.drivers import LOOK_SHARE
from ssl_sweep.service.loop import Loop
from ssl_sweep.service.store import Submission
from ssl_sweep.tables.labels import row_name
from ssl_sweep.trialdir.states import TrialState

MAX_SWEEPS = 16  # that are kept
MAX_AGE_S = 60.0  # a sweep may be driven beside the service too
T = TypeVar("T")


@dataclass(frozen=True)
class TrialRow:
    """A trial with its knobs, and when its last attempt began and ended, in unix seconds, where the service saw it."""

    trial: Trial
    knobs: Mapping[str, Any]
    label: str
    began: float | None
    ended: float | None

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took."""
        return None if self.began is None or self.ended is None else self.ended - self.began

    @cached_property
    def text(self) -> str:
        """Everything of it that can be searched for."""
        trial = self.trial
        found = (trial.trial_id, trial.state, self.label, f"seed={trial.seed}", f"choice={trial.choice}")
        return "\n".join([*found, trial.reason or "", trial.message or ""]).lower()


@dataclass(frozen=True)
class Snapshot:
    """A sweep at one time."""

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
        """One or two; empty where the spec names none."""
        return parse_objectives((self.spec.get("search") or {}).get("objective"))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of complete trials, the objectives first, then the table's."""
        first = [objective.metric for objective in self.objectives]
        measured = {name for row in self.rows for name in row.trial.results or ()}
        columns = [name for name in (self.spec.get("table") or {}).get("columns") or () if name in measured]
        return tuple(dict.fromkeys([*first, *columns, *sorted(measured)]))

    def metric(self, asked: str | None) -> str:
        """The metric that is asked for, or the objective."""
        return asked if asked in self.metrics else next(iter(self.metrics), "")

    def lowest(self, metric: str) -> bool:
        """Whether less of a metric is better."""
        from ssl_sweep.tables.pivot import lower_is_better  # with pandas

        return lower_is_better(metric, self.objectives)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What is made of this snapshot, made once."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


@dataclass
class _Shelf:
    lock: threading.Lock = field(default_factory=threading.Lock)
    key: str = ""
    snapshot: Snapshot | None = None
    read: float = 0.0  # by the monotonic clock
    seconds: float = 0.0  # that it took


class Snapshots:
    """The newest snapshot of each sweep that is looked at."""

    def __init__(self) -> None:
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, service: Loop, submission: Submission) -> Snapshot:
        """A sweep as it is now, or was a moment ago. Raises LedgerUnreachableError."""
        shelf, key = self._shelf(submission.id), _key(submission)
        if shelf.snapshot is not None and shelf.lock.locked():
            return shelf.snapshot  # somebody else reads the next one
        with shelf.lock:
            if shelf.snapshot is None or _is_due(shelf, key):
                began = time.monotonic()
                shelf.snapshot, shelf.key = _read(service, submission), key
                shelf.read = time.monotonic()
                shelf.seconds = shelf.read - began
            return shelf.snapshot

    def _shelf(self, number: str) -> _Shelf:
        with self._lock:
            shelf = self._shelves.setdefault(number, _Shelf())
            self._shelves.move_to_end(number)
            if len(self._shelves) > MAX_SWEEPS:
                self._shelves.popitem(last=False)
            return shelf


def _is_due(shelf: _Shelf, key: str) -> bool:
    """A ledger is read for a tenth of the time at most."""
    age = time.monotonic() - shelf.read
    return age > min(LOOK_SHARE * shelf.seconds, MAX_AGE_S) and (key != shelf.key or age > MAX_AGE_S)


def _key(submission: Submission) -> str:
    return json.dumps([submission.state, submission.attempt, dict(submission.counts)])


def _read(service: Loop, submission: Submission) -> Snapshot:
    times = _times(service, submission)
    created = submission.launched or submission.created
    try:
        with read_ledger(service.settings.storage.ledger_url, submission.name) as ledger:
            rows = tuple(_row(trial, ledger, times) for trial in ledger.trials)
            spec = ledger.spec.model_dump(mode="json")
            return Snapshot(submission.name, spec, ledger.total, rows, created)
    except LedgerError:  # its driver has not begun
        return Snapshot(submission.name, submission.spec, int(submission.counts.get("total") or 0), (), created)


def _row(trial: Trial, ledger: Ledger, times: Mapping[str, tuple[float | None, float | None]]) -> TrialRow:
    knobs = ledger.choice(trial.choice).knobs
    label = row_name(tuple(knobs.values()), list(knobs))
    return TrialRow(trial, knobs, label, *times.get(trial.trial_id, (None, None)))


def _times(service: Loop, submission: Submission) -> dict[str, tuple[float | None, float | None]]:
    """When each trial's last attempt began and ended, as the loop saw it."""
    times: dict[str, tuple[float | None, float | None]] = {}
    for event in service.store.events(submission.id, kind="trial"):
        began = times.get(event["trial_id"], (None, None))[0]
        is_begin = event["trial_state"] == TrialState.RUNNING
        times[event["trial_id"]] = (event["time"], None) if is_begin else (began, event["time"])
    return times
