"""Runs -> an ablation table: rows by knobs, mean ± std over seeds, the best of each column, published figures."""

import difflib
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ssl_sweep.transcript import value_of

LOWER_IS_BETTER = ("loss", "error", "seconds")
SPLITS = ("train", "val", "test")
NO_KNOBS = ("trial_id", "choice", "seed", "state", "attempt", "reason", "message", "start", "end")
MAX_NAMED = 5  # rows in a footnote
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """A metric over the seeds of a row; `std` divides by n - 1 and is None for n < 2."""

    mean: float | None
    std: float | None
    n: int
    published: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One setting of the row knobs, and a cell a metric."""

    key: Key
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """`rows` are names of knobs, `columns` names of metrics; `decimals` and `has_published` have an entry a column."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    body: tuple[Row, ...]
    decimals: tuple[int, ...]
    has_published: tuple[bool, ...]
    notes: tuple[str, ...]


def ablation(
    runs: pd.DataFrame,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    published: Mapping[str, Mapping[Any, float]] | None = None,
) -> Table:
    """The COMPLETE trials of `record.runs`: metrics `columns` by knobs `rows`, over seeds.

    `published` has a metric's figures by row: 0.3 and "0.3" are the same; of several knobs, a tuple or "moco, 0.3".
    A row without a COMPLETE trial stays, empty. Raises ValueError for a row that is no parameter of these runs.
    """
    groups = _groups(runs, rows)
    figures = {
        metric: {_key(row, len(rows)): figure for row, figure in (published or {}).get(metric, {}).items()}
        for metric in columns
    }
    by_column = [_column(runs, metric, groups, figures[metric]) for metric in columns]
    body = tuple(Row(key, tuple(cells[i] for cells in by_column)) for i, key in enumerate(groups))
    has_published = tuple(any(cell.published is not None for cell in cells) for cells in by_column)
    notes = (
        *_notes_on_trials(runs, body),
        *_notes_on_groups(runs, groups, rows),
        *_notes_on_columns(runs, columns),
        *_notes_on_published(figures, groups),
    )
    return Table(tuple(rows), tuple(columns), body, tuple(map(_decimals, by_column)), has_published, notes)


def display_name(name: str, among: Sequence[str] = ()) -> str:
    """`views.flip` -> `flip`, unless `among` has two of that name; `knn/top1_test` -> `knn top1 (test)`."""
    stage, slash, metric = name.rpartition("/")
    if not slash:
        path = name.removesuffix(".name")
        short = path.rpartition(".")[2]
        alike = [other for other in among if other.removesuffix(".name").rpartition(".")[2] == short]
        return short if len(alike) < 2 else path
    words = metric.split("_")
    shown = [*words[:-1], f"({words[-1]})"] if len(words) > 1 and words[-1] in SPLITS else words
    return " ".join([*stage.split("/"), *shown])


def _groups(runs: pd.DataFrame, rows: Sequence[str]) -> dict[Key, list[int]]:
    """The positions of each row's COMPLETE trials; numbers in their order, everything else as it first appears."""
    if runs.empty:
        return {}
    for name in rows:
        if name not in runs.columns:
            known = [column for column in runs.columns if "/" not in column]
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"table.rows: {name!r} is not a parameter of these runs; {remedy}")
    keys: list[Key] = list(zip(*([_plain(value) for value in runs[name]] for name in rows), strict=True))
    keys = keys or [()] * len(runs)  # a sweep that searches nothing is one row
    order = [_ranks(values) for values in zip(*keys, strict=True)]
    distinct = sorted(set(keys), key=lambda key: [ranks[part] for ranks, part in zip(order, key, strict=True)])
    groups: dict[Key, list[int]] = {key: [] for key in distinct}
    for position, (key, state) in enumerate(zip(keys, runs["state"], strict=True)):
        if state == "COMPLETE":
            groups[key].append(position)
    return groups


def _ranks(values: Sequence[Any]) -> dict[Any, int]:
    distinct = [value for value in dict.fromkeys(values) if value is not None]
    if all(isinstance(value, (int, float)) for value in distinct):
        distinct.sort()
    return {value: rank for rank, value in enumerate([*distinct, None])}


def _key(row: Any, num_knobs: int) -> Key:
    parts = row.split(",") if isinstance(row, str) and num_knobs > 1 else row
    return tuple(_plain(part) for part in (parts if isinstance(parts, (tuple, list)) else [parts]))


def _plain(value: Any) -> Any:
    """The Python number, bool, None or text that a value stands for, whether it is numpy's, pandas' or written out."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        try:
            value = value_of(value.strip())
        except ValueError:
            return value.strip()
    return None if isinstance(value, float) and math.isnan(value) else value


def _column(
    runs: pd.DataFrame, metric: str, groups: Mapping[Key, list[int]], published: Mapping[Key, float]
) -> list[Cell]:
    values = [float(value) for value in runs[metric]] if metric in runs.columns else [math.nan] * len(runs)
    return _best_marked(
        metric, [_cell([values[i] for i in trials], published.get(key)) for key, trials in groups.items()]
    )


def _cell(values: Sequence[float], published: float | None) -> Cell:
    finite = [value for value in values if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else None
    return Cell(mean, statistics.stdev(finite) if len(finite) > 1 else None, len(finite), published)


def _best_marked(metric: str, cells: list[Cell]) -> list[Cell]:
    """What rounds to the same figure as the best is as good; a single figure is not the best of anything."""
    decimals = _decimals(cells)
    rounded = [None if cell.mean is None else round(cell.mean, decimals) for cell in cells]
    figures = [figure for figure in rounded if figure is not None]
    if len(figures) < 2:
        return cells
    best = min(figures) if any(word in metric for word in LOWER_IS_BETTER) else max(figures)
    return [replace(cell, best=figure == best) for cell, figure in zip(cells, rounded, strict=True)]


def _decimals(cells: Sequence[Cell]) -> int:
    """One digit after the point for percentages, three significant digits for smaller figures."""
    largest = max((abs(cell.mean) for cell in cells if cell.mean), default=100.0)
    return min(max(1, 2 - math.floor(math.log10(largest))), 6)


def _notes_on_trials(runs: pd.DataFrame, body: Sequence[Row]) -> list[str]:
    if runs.empty:
        return ["no trials yet"]
    notes = []
    if any(cell.std is not None for row in body for cell in row.cells):
        notes.append("mean ± standard deviation over seeds (number of seeds)")
    left_out = Counter(state for state in runs["state"] if state != "COMPLETE")
    if left_out:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(left_out.items()))
        notes.append(f"not in the means: {counts} of {len(runs)} trials")
    return notes


def _notes_on_groups(runs: pd.DataFrame, groups: Mapping[Key, list[int]], rows: Sequence[str]) -> list[str]:
    """A mean over fewer seeds, or over different settings, must not look like the others."""
    notes = []
    seeds, choices = runs["seed"].tolist(), list(zip(runs["sweep"], runs["choice"], strict=True))
    num_seeds = len(set(seeds))
    found = {key: len({seeds[i] for i in trials}) for key, trials in groups.items()}
    short = [f"{_named(key, rows)} ({n})" for key, n in found.items() if n < num_seeds]
    if short:
        more = f" and {len(short) - MAX_NAMED} more" if len(short) > MAX_NAMED else ""
        notes.append(f"fewer than {num_seeds} seeds: {'; '.join(short[:MAX_NAMED])}{more}")
    mixed = [trials for trials in groups.values() if len({choices[i] for i in trials}) > 1]
    if mixed:
        varied = ", ".join(_varied(runs, mixed)) or "no parameter"
        notes.append(f"{len(mixed)} rows are means over several choices, which differ in {varied}")
    return notes


def _varied(runs: pd.DataFrame, groups: Sequence[Sequence[int]]) -> list[str]:
    """The parameters of which some group holds more than one value."""
    varied = []
    for name in runs.columns:
        if "/" not in name and name not in NO_KNOBS:
            values = [_plain(value) for value in runs[name]]
            if any(len({values[i] for i in trials}) > 1 for trials in groups):
                varied.append(name)
    return varied


def _named(key: Key, rows: Sequence[str]) -> str:
    return ", ".join(f"{display_name(name, rows)}={value_text(part)}" for name, part in zip(rows, key, strict=True))


def value_text(value: Any) -> str:
    """A knob's value in a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes_on_columns(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    notes = []
    for name in columns:
        if not runs.empty and name not in runs.columns:
            near = difflib.get_close_matches(name, [column for column in runs.columns if "/" in column], n=1)
            notes.append(f"no trial has reported {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return notes


def _notes_on_published(figures: Mapping[str, Mapping[Key, float]], groups: Mapping[Key, list[int]]) -> list[str]:
    lost = dict.fromkeys(key for by_row in figures.values() for key in by_row if groups and key not in groups)
    named = ", ".join(" ".join(map(value_text, key)) for key in lost)
    return [f"published, but no row here: {named}"] if lost else []
