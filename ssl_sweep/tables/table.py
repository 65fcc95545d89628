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
        std: divides by n - 1; None for n < 2.
        n: how many seeds have a finite value.
        low: the lower end of the mean's 95 % interval, where the table has one and n > 1.
        high: its upper end.
        p: of the paired test against the baseline, after Holm's correction; None where there is no test.
        pairs: how many seeds this row and the baseline have in common.
        published: another's figure for this row.
        best: nothing in the column is better, as far as its decimals show; of what was confirmed, where something was.
        confirmed: the same over fresh seeds, of the choices that the search found best; None for the others.
        found: the mean that these choices had in the search.
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

    @property
    def change(self) -> float | None:
        """What the fresh seeds say less what the search said."""
        if self.confirmed is None or self.confirmed.mean is None or self.found is None:
            return None
        return self.confirmed.mean - self.found

    @property
    def difference(self) -> float | None:
        """Ours less the published figure."""
        return None if self.mean is None or self.published is None else self.mean - self.published

    @property
    def mark(self) -> str:
        """`*` for p < 0.05, `**` for p < 0.01."""
        return "" if self.p is None else next((mark for level, mark in MARKS if self.p < level), "")


@dataclass(frozen=True)
class Row:
    """One setting of the row knobs, and a cell a metric."""

    key: Key
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """An ablation table.

    `rows` say what a key consists of; `columns` are metrics, each with an entry in `decimals` and `has_...`. `front`
    has the rows that no other beats in both objectives, where there are two.
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
