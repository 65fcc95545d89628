"""The table of a sweep's trials, filtered, sorted and paged on the server, so that the browser has few rows."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssl_sweep.knobs.best import best_first
from ssl_sweep.ledger.best import scores_of
from ssl_sweep.service.board.snapshot import Snapshot, TrialRow
from ssl_sweep.tables.labels import display_name, name_with_unit
from ssl_sweep.trialdir.states import TrialState

PAGE = 50
MAX_KNOBS = 10  # with a column
KNOB = "knob."
FIXED = {"choice": "choice", "seed": "seed", "state": "state", "took": "took", "attempts": "tries"}


@dataclass(frozen=True)
class Column:
    """A column: its sort key and title."""

    key: str
    title: str
    numeric: bool = True


@dataclass(frozen=True)
class TrialTable:
    """A page of the trials that match a search."""

    columns: tuple[Column, ...]
    knobs: tuple[str, ...]
    metric: str
    decimals: int  # of the metric
    rows: tuple[TrialRow, ...]
    first: int  # number of the page's first row, from 1; 0 without rows
    num_matching: int
    total: int
    page: int
    pages: int
    sort: str
    descending: bool


@dataclass(frozen=True)
class FailureKind:
    """Trials that ended alike: PRUNED at the same epoch, or FAILED with the same message."""

    state: str
    reason: str
    message: str
    count: int
    example: TrialRow


def trial_table(snapshot: Snapshot, *, metric: str, sort: str, text: str, state: str, page: int) -> TrialTable:
    """A page of trials sorted by a column's key; a minus before the key reverses, missing values are last."""
    knobs = snapshot.knobs[:MAX_KNOBS]
    columns = _columns(snapshot, knobs, metric)
    key = sort.removeprefix("-")
    if key not in {column.key for column in columns}:
        sort = key = "choice"
    words = text.lower().split()
    rows = [row for row in snapshot.rows if state in ("", row.trial.state) and all(word in row.text for word in words)]
    ordered = _ordered(rows, key, metric, descending=sort.startswith("-"))
    pages = max(1, -(-len(rows) // PAGE))
    page = min(max(page, 1), pages)
    shown = tuple(ordered[(page - 1) * PAGE : page * PAGE])
    first = (page - 1) * PAGE + 1 if rows else 0
    return TrialTable(
        columns,
        knobs,
        metric,
        _decimals(rows, metric),
        shown,
        first,
        len(rows),
        len(snapshot.rows),
        page,
        pages,
        key,
        sort.startswith("-"),
    )


def best_rows(snapshot: Snapshot, metric: str, count: int) -> list[TrialRow]:
    """The best complete trials by a metric: those of the best choice first, see `knobs.best`."""
    sign = -1 if snapshot.lowest(metric) else 1
    scores = scores_of((row.trial for row in snapshot.rows), metric)
    places = {number: place for place, number in enumerate(best_first(scores, sign))}
    scored = [row for row in snapshot.rows if row.trial.choice in places and _finite(row, metric) is not None]
    scored.sort(key=lambda row: (places[row.trial.choice], -sign * (_finite(row, metric) or 0.0)))
    return scored[:count]


def _finite(row: TrialRow, metric: str) -> float | None:
    """A complete trial's value of a metric, unless it is no number."""
    value = (row.trial.results or {}).get(metric, math.nan)
    return value if row.trial.state == TrialState.COMPLETE and math.isfinite(value) else None


def failure_kinds(snapshot: Snapshot) -> list[FailureKind]:
    """The ways in which trials were pruned or failed, the most frequent first."""
    alike: dict[tuple[str, str, str], list[TrialRow]] = defaultdict(list)
    for row in snapshot.rows:
        trial = row.trial
        if trial.state in (TrialState.FAILED, TrialState.PRUNED):
            message = (trial.message or "").strip()
            if trial.state == TrialState.PRUNED:  # after the epoch comes the trial's own value
                message = message.partition(",")[0]
            alike[trial.state, trial.reason or "", message].append(row)
    most = sorted(alike.items(), key=lambda item: -len(item[1]))
    return [FailureKind(*kind, len(rows), rows[0]) for kind, rows in most]


def _columns(snapshot: Snapshot, knobs: Sequence[str], metric: str) -> tuple[Column, ...]:
    searched = [
        Column(KNOB + path, display_name(path, list(snapshot.knobs)), _is_numeric(snapshot, path)) for path in knobs
    ]
    measured = [Column("metric", name_with_unit(metric))] if metric else []
    named = [Column(key, title, numeric=key != "state") for key, title in FIXED.items()]
    return (*named[:3], *measured, *searched, *named[3:])


def _is_numeric(snapshot: Snapshot, path: str) -> bool:
    values = (row.knobs.get(path) for row in snapshot.rows)
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values if value is not None)


def _decimals(rows: Sequence[TrialRow], metric: str) -> int:
    """The number of decimals with which the largest value has four digits."""
    values = [abs(value) for row in rows if (value := (row.trial.results or {}).get(metric)) and math.isfinite(value)]
    return min(max(3 - math.floor(math.log10(max(values))), 0), 6) if values else 0


def _ordered(rows: Sequence[TrialRow], key: str, metric: str, *, descending: bool) -> list[TrialRow]:
    values = {id(row): _value(row, key, metric) for row in rows}
    known = [row for row in rows if values[id(row)] is not None]
    known.sort(key=lambda row: values[id(row)], reverse=descending)
    return [*known, *(row for row in rows if values[id(row)] is None)]


def _value(row: TrialRow, key: str, metric: str) -> Any:
    """A value to sort by; None if there is none."""
    trial = row.trial
    if key.startswith(KNOB):
        value = row.knobs.get(key.removeprefix(KNOB))
        is_number = isinstance(value, int | float)
        return None if value is None else (not is_number, value if is_number else str(value))
    if key == "metric":
        value = (trial.results or {}).get(metric)
        return value if value == value else None  # nan has no order
    if key == "choice":
        return (trial.choice, trial.confirms, trial.seed)
    return row.seconds if key == "took" else getattr(trial, key)
