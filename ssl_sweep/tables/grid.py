"""An ablation table as a grid of texts, which every format is written from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ssl_sweep.tables.labels import FRONT, NOTHING, SELECTED, display_name, value_text
from ssl_sweep.tables.table import Cell, Table

CellText = Callable[[Cell, int], str]  # a cell that has a mean, and its decimals


@dataclass(frozen=True)
class Grid:
    """A table as texts. `best`: the (line, column) of each best figure; `numeric`: which columns are right-aligned.

    `spans`: with several data sets, the label over each run of columns and their number, in order; "" over others.
    """

    headers: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    numeric: tuple[bool, ...]
    spans: tuple[tuple[str, int], ...] = ()

    @property
    def full_headers(self) -> tuple[str, ...]:
        """The headers with the labels of their spans, for formats without a second line of headers."""
        over = [label for label, width in self.spans for _ in range(width)] or [""] * len(self.headers)
        return tuple(
            f"{header} [{label}]" if label else header for header, label in zip(self.headers, over, strict=True)
        )


def grid(table: Table) -> Grid:
    """The table for the console: `37.1 ± 0.4* (3)`."""
    made = make_grid(table, str, lambda cell, decimals: f"{figure(cell, decimals)}{cell.mark} {count(cell)}")
    return replace(made, headers=made.full_headers, spans=())


def make_grid(table: Table, escaped: Callable[[str], str], cell_text: CellText) -> Grid:
    """The table with its texts escaped and its cells written for one format."""
    headers = [escaped(display_name(name, table.rows)) for name in table.rows]
    numeric = [all(isinstance(row.key[i], int | float | None) for row in table.body) for i in range(len(table.rows))]
    widths = []
    for name, confirmed, published in zip(table.columns, table.has_confirmed, table.has_published, strict=True):
        headers += [escaped(display_name(name)), *(["confirmed", "change"] if confirmed else [])]
        headers += ["published", "difference"] if published else []
        widths.append(1 + 2 * confirmed + 2 * published)
    lines: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for row in table.body:
        line = [escaped(value_text(part)) for part in row.key]
        if row.key in table.selected and line:
            line[0] = f"{escaped(SELECTED)} {line[0]}"
        shown = zip(row.cells, table.decimals, table.has_confirmed, table.has_published, strict=True)
        for cell, decimals, confirmed, published in shown:
            for part in (cell, cell.confirmed) if confirmed else (cell,):
                if part is not None and part.best:
                    best.add((len(lines), len(line)))
                line.append(escaped(NOTHING) if part is None or part.mean is None else cell_text(part, decimals))
            line += [escaped(_signed(cell.change, decimals))] if confirmed else []
            figures = (_published(cell, decimals), _signed(cell.difference, decimals))
            line += map(escaped, figures) if published else []
        if table.front is not None:
            line.append(escaped(FRONT) if row.key in table.front else "")
        lines.append(tuple(line))
    numeric += [True] * (len(headers) - len(numeric))
    if table.front is not None:
        headers, numeric = [*headers, "front"], [*numeric, False]
    spans = [("", len(table.rows)), *zip(map(escaped, table.data), widths, strict=False)] if table.data else []
    spans += [("", 1)] if table.data and table.front is not None else []
    return Grid(tuple(headers), tuple(lines), frozenset(best), tuple(numeric), _joined(spans))


def _joined(spans: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """The spans, those side by side under one label as one."""
    groups = groupby(spans, key=lambda span: span[0])
    return tuple((label, sum(width for _, width in group)) for label, group in groups)


def count(cell: Cell) -> str:
    """`(3)`, the number of seeds; `(3, 1 collapsed)` where the mean holds collapsed trials."""
    return f"({cell.n}, {cell.collapsed} collapsed)" if cell.collapsed else f"({cell.n})"


def figure(cell: Cell, decimals: int, *, bold: str = "{}", plus_minus: str = " ± ", gap: str = " ") -> str:
    """`37.1 ± 0.4`, or `37.1 [36.1, 38.1]` where the table has intervals; `bold` is the format of the bold part."""
    mean = f"{cell.mean:.{decimals}f}"
    if cell.low is not None and cell.high is not None:
        return f"{bold.format(mean)}{gap}[{cell.low:.{decimals}f}, {cell.high:.{decimals}f}]"
    return bold.format(mean if cell.std is None else f"{mean}{plus_minus}{cell.std:.{decimals}f}")


def _published(cell: Cell, decimals: int) -> str:
    if cell.published is None:
        return NOTHING
    given = len(repr(float(cell.published)).partition(".")[2])  # a published figure is not rounded
    return f"{cell.published:.{max(decimals, given)}f}"


def _signed(difference: float | None, decimals: int) -> str:
    if difference is None:
        return NOTHING
    return f"{round(difference, decimals) + 0.0:+.{decimals}f}"  # -0.0 + 0.0 is 0.0
