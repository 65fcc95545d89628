"""An ablation table as data: its rows, cells and notes, before anything is rendered."""

from dataclasses import dataclass
from typing import Literal

from ssl_sweep.tables.labels import Key

Interval = Literal["std", "t", "bootstrap"]
MARKS = ((0.01, "**"), (0.05, "*"))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A metric over the seeds of a row.

    Args:
        mean: over the seeds; None without any.
        std: with n - 1 in the denominator; None for n < 2.
        n: the number of seeds with a finite value.
        low: the lower end of the mean's 95 % interval, where the table has one and n > 1.
        high: its upper end.
        p: of the paired test against the baseline over these seeds, after Holm's correction; None without a test.
        pairs: the number of seeds that this row and the baseline have in common.
        published: a published figure for this row.
        best: no figure of the column is better at the decimals shown; where choices are confirmed, no confirmed one.
        confirmed: the same over fresh seeds, of the choices that the search found best; None for the others.
        found: the search's mean of these choices.
        collapsed: the number of trials in the mean whose features collapsed.
    """

    mean: float | None
    std: float | None
    n: int
    low: float | None = None
    high: float | None = None
    p: float | None = None
    pairs: int = 0
    published: float | None = None
    best: bool = False
    confirmed: "Cell | None" = None
    found: float | None = None
    collapsed: int = 0

    @property
    def change(self) -> float | None:
        """The mean over fresh seeds minus the search's mean of the same choices."""
        if self.confirmed is None or self.confirmed.mean is None or self.found is None:
            return None
        return self.confirmed.mean - self.found

    @property
    def difference(self) -> float | None:
        """Our mean minus the published figure."""
        return None if self.mean is None or self.published is None else self.mean - self.published

    @property
    def mark(self) -> str:
        """`*` for p < 0.05, `**` for p < 0.01."""
        return "" if self.p is None else next((mark for level, mark in MARKS if self.p < level), "")


@dataclass(frozen=True)
class Row:
    """One setting of the row knobs, and one cell for each metric."""

    key: Key
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """An ablation table.

    `rows` names the parts of a key; `columns` are metrics, each with an entry in `decimals` and `has_...`, and in
    `data` where the runs are of several data sets: the label of the column's one. `front`: the keys of the rows on the
    Pareto front, where there are two objectives. `selected`: the keys of the rows that validation selects, one of each
    data set.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    body: tuple[Row, ...]
    decimals: tuple[int, ...]
    has_published: tuple[bool, ...]
    has_confirmed: tuple[bool, ...]
    interval: Interval
    notes: tuple[str, ...]
    front: frozenset[Key] | None = None
    selected: frozenset[Key] = frozenset()
    data: tuple[str, ...] = ()

    @property
    def column_names(self) -> tuple[str, ...]:
        """A name for each column that no other has: the metric, and its data set where there are several."""
        if not self.data:
            return self.columns
        return tuple(f"{metric} [{data}]" for metric, data in zip(self.columns, self.data, strict=True))
