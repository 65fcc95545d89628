"""Runs -> an ablation table: mean and spread over seeds, tests against a baseline, the best of each column."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from ssl_sweep.knobs.objective import COSTS, parse_objectives
from ssl_sweep.tables import notes as table_notes
from ssl_sweep.tables import stats
from ssl_sweep.tables.collapsed import collapsed_by_row
from ssl_sweep.tables.labels import Key, label_meant
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
    """The table of COMPLETE trials: metrics `columns` by parameters `rows`, over seeds.

    A seed counts once: several trials of one seed in a row are averaged first. A row without a COMPLETE trial is shown
    empty. Trials with fresh seeds, which confirm a choice, have a mean of their own. A row is tested by its fresh seeds
    where it and the baseline have some; a row that validation chose is tested by no others.

    Args:
        runs: one line a trial, as `tracking.reader.runs` returns them.
        rows: parameters, searched or not.
        columns: metrics.
        published: figures by metric and row; a row is 0.3 or "0.3", and with several knobs a tuple or "moco, 0.3".
        interval: what is shown beside a mean: its standard deviation, or a 95 % interval.
        baseline: the row that the others are tested against, paired by seed; None: no tests.
        test: the paired test.
        group_by: parameters, or group names with the labels of their rows. Only the best row of each group is shown:
            by the objective, or without one by the first column on the validation split.
        objective: `maximize METRIC` or `minimize METRIC`; or two of them: the rows on their Pareto front are marked,
            and the first one chooses the rows of groups.

    Raises:
        TableError: one of `rows` is not a parameter of these runs.
    """
    objectives = parse_objectives(objective)
    pivoted = pivot(runs, rows, group_by, columns, next(iter(objectives), None))
    published = published or {}
    reference = None if baseline is None else _row_called(pivoted, baseline)
    by_column = []
    for metric in columns:
        figures = _by_row(pivoted, published.get(metric, {}))
        cells = _column(runs, pivoted, metric, figures, interval, reference, test)
        by_column.append(_best_marked(cells, lowest=lower_is_better(metric, objectives)))
    body = tuple(Row(key, tuple(cells[i] for cells in by_column)) for i, key in enumerate(pivoted.trials))
    table = Table(
        rows=pivoted.names,
        columns=tuple(columns),
        body=body,
        decimals=tuple(map(_decimals, by_column)),
        has_published=tuple(any(cell.published is not None for cell in cells) for cells in by_column),
        has_confirmed=tuple(any(cell.confirmed is not None for cell in cells) for cells in by_column),
        interval=interval,
        notes=(),
        front=front_of(runs, pivoted, objectives) if len(objectives) > 1 else None,
        selected=frozenset() if pivoted.selected is None else frozenset([pivoted.selected]),
    )
    notes = table_notes.notes(runs, table, pivoted, published, baseline, reference, test, objectives)
    return replace(table, notes=notes)


def _column(
    runs: pd.DataFrame,
    pivoted: Pivot,
    metric: str,
    published: Mapping[Key, float],
    interval: Interval,
    reference: Key | None,
    test: Test,
) -> list[Cell]:
    """A metric's cell in each row, from its values by seed to its test and what fresh seeds confirm."""
    values = by_seed(runs, metric, pivoted.trials)
    fresh = by_seed(runs, metric, {} if metric in COSTS else pivoted.fresh)  # a cost does not depend on the seed
    earlier = by_seed(runs, metric, pivoted.confirmed)
    tests = {} if reference is None else _tests(values, fresh, pivoted, reference, test)
    collapsed = collapsed_by_row(runs, metric, pivoted)
    cells = []
    for key, seeds in values.items():
        tested = tests.get(key, Tested())
        cell = replace(_cell(seeds, published.get(key), interval), collapsed=collapsed[False][key])
        again = replace(_cell(fresh.get(key, {}), None, interval), collapsed=collapsed[True][key])
        if tested.is_fresh:
            again = replace(again, p=tested.p, pairs=tested.pairs)
        else:
            cell = replace(cell, p=tested.p, pairs=tested.pairs)
        if again.n:
            found = statistics.fmean(earlier[key].values()) if earlier[key] else None
            cell = replace(cell, confirmed=again, found=found)
        cells.append(cell)
    return cells


def _by_row(pivoted: Pivot, figures: Mapping[Any, float]) -> dict[Key, float]:
    """The figures of the rows that have one; a group's figure has precedence over that of its row."""
    labels = _labels(pivoted)
    by_label = {label_meant(label, labels): figure for label, figure in figures.items()}
    given = {key: [by_label[label] for label in labels if label in by_label] for key, labels in pivoted.labels.items()}
    return {key: own[0] for key, own in given.items() if own}


def _row_called(pivoted: Pivot, label: Any) -> Key | None:
    meant = label_meant(label, _labels(pivoted))
    return next((key for key, labels in pivoted.labels.items() if meant in labels), None)


def _labels(pivoted: Pivot) -> frozenset[str]:
    """The labels of all rows and groups, shown or not."""
    return pivoted.known.union(*pivoted.labels.values())


def _cell(seeds: Mapping[Any, float], published: float | None, interval: Interval) -> Cell:
    values = list(seeds.values())
    if len(values) < 2:
        return Cell(mean=values[0] if values else None, std=None, n=len(values), published=published)
    low, high = INTERVALS[interval](values) if interval in INTERVALS else (None, None)
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return Cell(mean=mean, std=std, n=len(values), low=low, high=high, published=published)


@dataclass(frozen=True)
class Tested:
    """A test of a row against the baseline: p after correction, over how many common seeds, and whether fresh ones."""

    p: float | None = None
    pairs: int = 0
    is_fresh: bool = False


def _tests(
    values: Mapping[Key, Mapping[Any, float]],
    fresh: Mapping[Key, Mapping[Any, float]],
    pivoted: Pivot,
    reference: Key,
    test: Test,
) -> dict[Key, Tested]:
    """The test of each row by seeds that did not choose it, corrected for the number of comparisons in the column.

    A row that was chosen has its p for each of the rows that it was chosen from by these seeds (Bonferroni).
    """
    found: dict[Key, Tested] = {}
    for key in values:
        is_fresh = bool(fresh.get(key) and fresh.get(reference))
        if key == reference or (not is_fresh and (pivoted.is_chosen(key) or pivoted.is_chosen(reference))):
            continue
        ours, theirs = (fresh[key], fresh[reference]) if is_fresh else (values[key], values[reference])
        seeds = [seed for seed in ours if seed in theirs]
        p = TESTS[test]([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
        if p is not None and is_fresh:
            chosen = [pivoted.chosen_fresh.get(each, 1) for each in (key, reference)]
            p = min(1.0, p * math.prod(chosen))
        found[key] = Tested(p, len(seeds), is_fresh)
    # validation decides which rows of a plain table are confirmed, so their tests by either seeds count
    either = [1.0 for key, tested in found.items() if tested.is_fresh and key not in pivoted.chosen_from]
    corrected = stats.holm([*(tested.p for tested in found.values()), *either])[: len(found)]
    return {key: replace(tested, p=p) for (key, tested), p in zip(found.items(), corrected, strict=True)}


def _best_marked(cells: list[Cell], *, lowest: bool) -> list[Cell]:
    """Mark the best cell, and all that round to the same figure; a column with a single figure has no best.

    Where choices were confirmed, the best is one of them: the search's own means are biased towards what it chose.
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
    """One decimal for percentages, three significant digits for smaller figures."""
    largest = max((abs(cell.mean) for cell in cells if cell.mean), default=100.0)
    return min(max(1, 2 - math.floor(math.log10(largest))), 6)
