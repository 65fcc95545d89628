"""Runs -> an ablation table: mean and spread over seeds, tests against a baseline, the best of each column."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from ssl_sweep.knobs.objective import COSTS, parse_objectives
from ssl_sweep.tables import notes as table_notes
from ssl_sweep.tables import stats
from ssl_sweep.tables.labels import Key, row_key
from ssl_sweep.tables.pivot import Groups, Pivot, by_seed, front_of, lower_is_better, pivot
from ssl_sweep.tables.table import Cell, Interval, Row, Table

Test = Literal["t", "wilcoxon"]
INTERVALS = {"t": stats.t_interval, "bootstrap": stats.bootstrap_interval}
TESTS = {"t": stats.paired_t, "wilcoxon": stats.wilcoxon}


def ablation(
    runs: pd.DataFrame,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    published: Mapping[str, Mapping[Any, float]] | None = None,
    interval: Interval = "std",
    baseline: Any = None,
    test: Test = "t",
    group_by: Groups = (),
    objective: str | Sequence[str] = "",
) -> Table:
    """The COMPLETE trials of `record.runs`: metrics `columns` by parameters `rows`, over seeds.

    A seed counts once: where a row has several trials of a seed, their mean. A row without a COMPLETE trial stays,
    empty. Trials with fresh seeds, which confirm a choice, are in no mean but their own.

    Args:
        runs: one line a trial.
        rows: parameters, searched or not.
        columns: metrics.
        published: by metric and row: 0.3 and "0.3" are the same; of several knobs, a tuple or "moco, 0.3".
        interval: what stands beside a mean: its standard deviation, or a 95 % interval.
        baseline: the row that the others are tested against, paired by seed; None tests nothing.
        test: how.
        group_by: parameters, or names with the labels of their rows: only each group's best row is shown, by the
            objective; by the first column on the validation split where there is none.
        objective: `maximize METRIC` or `minimize METRIC`; or two of them, for which the rows that no other beats in
            both are marked. The first chooses.

    Raises:
        TableError: a row is no parameter of these runs.
    """
    objectives = parse_objectives(objective)
    found = pivot(runs, rows, group_by, columns, next(iter(objectives), None))
    figures = {metric: _by_key(found, (published or {}).get(metric, {})) for metric in columns}
    reference = None if baseline is None else _named(found, baseline)
    by_column = []
    for metric in columns:
        values = by_seed(runs, metric, found.trials)
        cells = {key: _cell(seeds, figures[metric].get(key), interval) for key, seeds in values.items()}
        tested = _tested(cells, values, reference, test)
        trials = {} if metric in COSTS else found.fresh  # whatever the seed, a cost is the same
        fresh, earlier = by_seed(runs, metric, trials), by_seed(runs, metric, found.found)
        again = [
            _confirmed(cell, fresh.get(key, {}), earlier[key], interval)
            for key, cell in zip(values, tested, strict=True)
        ]
        by_column.append(_best_marked(again, lowest=lower_is_better(metric, objectives)))
    body = tuple(Row(key, tuple(cells[i] for cells in by_column)) for i, key in enumerate(found.trials))
    table = Table(
        rows=found.names,
        columns=tuple(columns),
        body=body,
        decimals=tuple(map(_decimals, by_column)),
        has_published=tuple(any(cell.published is not None for cell in cells) for cells in by_column),
        has_confirmed=tuple(any(cell.confirmed is not None for cell in cells) for cells in by_column),
        interval=interval,
        notes=(),
        front=front_of(runs, found, objectives) if len(objectives) > 1 else None,
    )
    noted = table_notes.notes(runs, table, found, published or {}, baseline, reference, test, objectives)
    return replace(table, notes=noted)


def _by_key(found: Pivot, figures: Mapping[Any, float]) -> dict[Key, float]:
    """The figures of the rows that have one; a group's own before that of the row chosen for it."""
    given = {row_key(label): figure for label, figure in figures.items()}
    named = {key: [given[label] for label in labels if label in given] for key, labels in found.labels.items()}
    return {key: each[0] for key, each in named.items() if each}


def _named(found: Pivot, label: Any) -> Key | None:
    return next((key for key, labels in found.labels.items() if row_key(label) in labels), None)


def _cell(seeds: Mapping[Any, float], published: float | None, interval: Interval) -> Cell:
    values = list(seeds.values())
    if len(values) < 2:
        return Cell(mean=values[0] if values else None, std=None, n=len(values), published=published)
    low, high = INTERVALS[interval](values) if interval in INTERVALS else (None, None)
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return Cell(mean=mean, std=std, n=len(values), low=low, high=high, published=published)


def _tested(
    cells: Mapping[Key, Cell], values: Mapping[Key, Mapping[Any, float]], reference: Key | None, test: Test
) -> list[Cell]:
    """The cells with their p, corrected for as many comparisons as the column has."""
    if reference is None:
        return list(cells.values())
    theirs = values[reference]
    common = {key: [seed for seed in ours if seed in theirs and key != reference] for key, ours in values.items()}
    p_values = [
        TESTS[test]([values[key][seed] for seed in seeds], [theirs[seed] for seed in seeds])
        for key, seeds in common.items()
    ]
    corrected = zip(cells.items(), stats.holm(p_values), strict=True)
    return [replace(cell, p=p, pairs=len(common[key])) for (key, cell), p in corrected]


def _confirmed(cell: Cell, fresh: Mapping[Any, float], earlier: Mapping[Any, float], interval: Interval) -> Cell:
    """The cell with what fresh seeds say, and what the search said of the same choices."""
    if not fresh:
        return cell
    found = statistics.fmean(earlier.values()) if earlier else None
    return replace(cell, confirmed=_cell(fresh, None, interval), found=found)


def _best_marked(cells: list[Cell], *, lowest: bool) -> list[Cell]:
    """What rounds to the same figure as the best is as good; a single figure is not the best of anything.

    Where choices were confirmed, the best is one of them: the search's figures flatter what it chose.
    """
    if any(cell.confirmed is not None for cell in cells):
        marked = iter(_best_marked([cell.confirmed for cell in cells if cell.confirmed is not None], lowest=lowest))
        return [replace(cell, confirmed=next(marked)) if cell.confirmed is not None else cell for cell in cells]
    decimals = _decimals(cells)
    rounded = [None if cell.mean is None else round(cell.mean, decimals) for cell in cells]
    figures = [figure for figure in rounded if figure is not None]
    if len(figures) < 2:
        return cells
    best = min(figures) if lowest else max(figures)
    return [replace(cell, best=figure == best) for cell, figure in zip(cells, rounded, strict=True)]


def _decimals(cells: Sequence[Cell]) -> int:
    """One digit after the point for percentages, three significant digits for smaller figures."""
    largest = max((abs(cell.mean) for cell in cells if cell.mean), default=100.0)
    return min(max(1, 2 - math.floor(math.log10(largest))), 6)
