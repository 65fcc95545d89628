"""Notes on what the figures of a table allow one to conclude: spreads, the best row, tests against the baseline."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ssl_sweep.tables import stats
from ssl_sweep.tables.labels import SELECTED, Key, label_text, row_name
from ssl_sweep.tables.pivot import Pivot
from ssl_sweep.tables.table import Cell, Row, Table

MAX_NAMED = 5  # rows in a note
FEW = 10  # seeds; in a simulation with 3 normal values, the bootstrap's 95 % interval held the mean in 75 % of cases
SPREADS = {
    "std": "mean ± standard deviation over seeds",
    "t": "mean [95 % interval of the mean by Student's t] over seeds",
    "bootstrap": f"mean [95 % interval of the mean by percentile bootstrap, {stats.RESAMPLES:,} resamples] over seeds",
}
TESTS = {"t": "paired t-test", "wilcoxon": "exact Wilcoxon signed-rank test"}
PER_SEED = "per_seed"  # of `data.split_seed` and `subset_seed`: drawn anew for each seed
SPLIT_SEED, SUBSET_SEED = "data.split_seed", "evaluate.semi_supervised.subset_seed"


def several(named: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f"; and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    return "; ".join(named[:MAX_NAMED]) + more


def on_spread(runs: pd.DataFrame, table: Table) -> Iterator[str]:
    """What stands beside a mean, and which causes of variation it covers."""
    seeds = [cell.n for row in table.body for cell in row.cells if cell.n > 1]
    if seeds:
        yield f"{SPREADS[table.interval]} (number of seeds), which covers {_covered(runs, table)}"
    elif any(cell.n for row in table.body for cell in row.cells):
        yield "one seed each, so no deviation (number of seeds)"
    if seeds and table.interval == "bootstrap" and min(seeds) < FEW:
        yield f"the bootstrap's interval is too narrow for fewer than some {FEW} seeds; Student's t is not"


def _covered(runs: pd.DataFrame, table: Table) -> str:
    """`initialisation, order and views, not the split of the data`"""
    varies, stays = ["initialisation", "order", "views"], list[str]()
    for path, name in ((SPLIT_SEED, "the validation split"), (SUBSET_SEED, "the labelled subset")):
        if path == SUBSET_SEED and not any(metric.startswith("semi_supervised/") for metric in table.columns):
            continue
        by_seed = path in runs.columns and all(value == PER_SEED for value in runs[path].dropna())
        (varies if by_seed else stays).append(name)
    fixed = f", not {' or '.join(stays)}" if stays else ""
    return f"{', '.join(varies[:-1])} and {varies[-1]}{fixed}"


def on_best(table: Table, pivoted: Pivot) -> Iterator[str]:
    """What bold print and the sign of the selected row mean."""
    cells = [cell for row in table.body for each in row.cells for cell in (each, each.confirmed) if cell is not None]
    if any(cell.best for cell in cells):
        yield "bold: the best mean of a column, which selected nothing"
    if table.selected:
        fresh = any(pivoted.fresh[key] for key in table.selected)
        which, over = "lowest" if pivoted.lowest else "highest", " over fresh seeds" if fresh else ""
        yield f"{SELECTED}: the row that validation selects, by the {which} mean {pivoted.judge}{over}"


def on_tests(table: Table, pivoted: Pivot, baseline: Any, reference: Key | None, test: str) -> Iterator[str]:
    """How rows were tested against the baseline, and which were not."""
    if baseline is None:
        return
    if reference is None:
        yield f"no tests: the baseline {label_text(baseline)} is no row here"
        return
    name = row_name(reference, table.rows)
    others = [row for row in table.body if row.key != reference]
    tests = [each for row in others for cell in row.cells if (each := _tested(cell)) is not None]
    if tests:
        yield (
            f"* p below 0.05, ** below 0.01, against {name}: {TESTS[test]} over the seeds in common, two-sided, with "
            "Holm's correction for the rows of a column"
        )
    yield from _on_fresh(others, pivoted, reference)
    yield from _on_untested(others, pivoted, reference, name, test)
    by_column = zip(*(row.cells for row in others), strict=True)
    compared = max((sum(_tested(cell) is not None for cell in column) for column in by_column), default=0)
    pairs = max((each.pairs for each in tests), default=0)
    if test == "wilcoxon" and pairs and compared * stats.least_wilcoxon(pairs) >= stats.ALPHA:
        enough = next(n for n in range(pairs, 100) if compared * stats.least_wilcoxon(n) < stats.ALPHA)
        yield (
            f"no mark is possible: with {pairs} seeds and {compared} comparisons Wilcoxon's p is never below "
            f"{min(1.0, compared * stats.least_wilcoxon(pairs)):.3g}; run {enough} seeds or more, or use the t-test"
        )


def _tested(cell: Cell) -> Cell | None:
    """The part of a cell that was tested: its mean over the search's seeds, or over fresh ones."""
    parts = [part for part in (cell, cell.confirmed) if part is not None and part.p is not None]
    return parts[0] if parts else None


def _on_fresh(others: Sequence[Row], pivoted: Pivot, reference: Key) -> Iterator[str]:
    by_fresh = [row for row in others if any((part := cell.confirmed) and part.p is not None for cell in row.cells)]
    if by_fresh:
        twice = "" if pivoted.chosen_from else "; such a row counts twice in the correction"
        yield f"where a row and the baseline have fresh seeds, the test goes by these{twice}"
    most = max((pivoted.chosen_fresh.get(row.key, 1) for row in by_fresh), default=1)
    if most * pivoted.chosen_fresh.get(reference, 1) > 1 and by_fresh:
        yield "p counts once for each confirmed row that fresh seeds chose the row from (Bonferroni)"


def _on_untested(others: Sequence[Row], pivoted: Pivot, reference: Key, name: str, test: str) -> Iterator[str]:
    untested = [row for row in others if any(cell.mean is not None and _tested(cell) is None for cell in row.cells)]
    chosen = [row for row in untested if pivoted.is_chosen(row.key) or pivoted.is_chosen(reference)]
    if chosen:
        yield (
            f"not tested against {name}, since validation chose a row by the same seeds: {_named(chosen, pivoted)}; "
            "`search.confirm` with `table: true` runs these rows and the baseline with fresh seeds"
        )
    few = [row for row in untested if row not in chosen]
    if few:
        why = "fewer than two seeds in common" + (", or the same difference for each seed" if test == "t" else "")
        yield f"not tested against {name}, {why}: {_named(few, pivoted)}"


def _named(rows: Sequence[Row], pivoted: Pivot) -> str:
    return several([row_name(row.key, pivoted.names) for row in rows])
