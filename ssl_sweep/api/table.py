"""The ablation table of sweeps, made from MLflow; and as a data frame that shows itself as the table does."""

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import pandas as pd

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.database import has_ledger
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.status import may_be_driven
from ssl_sweep.sweep.tracking_uri import stored_tracking_uri
from ssl_sweep.tables.ablation import Test
from ssl_sweep.tables.options import table_of
from ssl_sweep.tables.pivot import TableError
from ssl_sweep.tables.render import grid, render
from ssl_sweep.tables.table import Cell, Interval, Table
from ssl_sweep.trialdir.damage import DamagedFileError

Names = str | Sequence[str] | None
ALWAYS = ("mean", "std", "n")
SOMETIMES = (  # where a cell of the column has it
    "low", "high", "p", "published", "difference", "confirmed", "confirmed_p", "change", "collapsed",
)  # fmt: skip


def make_table(
    names: Sequence[str],
    storage: Storage,
    *,
    tracking_uri: str | None = None,
    rows: Names = None,
    columns: Names = None,
    interval: Interval | None = None,
    baseline: Any = None,
    test: Test | None = None,
    group_by: Names = None,
) -> Table:
    """The table of these sweeps; see `Sweep.table`.

    tracking_uri: the MLflow store of all of them; None: each sweep's own.
    """
    for option, value, kind in (("interval", interval, Interval), ("test", test, Test)):
        if value is not None and value not in get_args(kind):
            raise TableError(f"{option}: {value!r} is not known; use one of {', '.join(get_args(kind))}")
    stores = {name: tracking_uri or stored_tracking_uri(storage, name) for name in names}
    lists = {"rows": _listed(rows), "columns": _listed(columns), "group_by": _listed(group_by)}
    complete = {name: _complete(storage, name) for name in names}
    options: dict[str, Any] = {**lists, "interval": interval, "baseline": baseline, "test": test}
    return table_of(stores, partial(may_be_driven, storage), complete, **options)


def _complete(storage: Storage, name: str) -> list[str]:
    """The ids of a sweep's complete trials; none where its ledger is not at hand. Raises DamagedFileError."""
    try:
        if not has_ledger(storage.ledger_url):
            return []
        return [each.trial_id for each in load_ledger(storage.ledger_url, name).trials if each.state == "COMPLETE"]
    except DamagedFileError:
        raise
    except UserError:
        return []


def _listed(names: Names) -> list[str] | None:
    """Names as a list; a text has them between commas."""
    if isinstance(names, str):
        return [part.strip() for part in names.split(",")]
    return None if names is None else list(names)


class AblationFrame(pd.DataFrame):
    """An ablation table: a row for each setting, and under each metric its `mean`, `std` and `n` over seeds.

    A notebook, `print`, `to_latex` and `to_markdown` show it as `ssl-sweep table` does, with bold print and notes. What
    is made of it, such as `table["knn/top1_test"]`, is a plain data frame, and it is one itself once it was changed.
    """

    _metadata = ["ablation", "caption"]  # noqa: RUF012 - pandas keeps these attributes when it pickles

    def __init__(self, ablation: Table, caption: str) -> None:
        super().__init__(_frame(ablation))  # type: ignore[call-arg]  # pandas-stubs know only __new__
        self.ablation, self.caption = ablation, caption

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes under the table."""
        return self.ablation.notes

    def to_latex(self, *, caption: str | None = None, label: str | None = None) -> str:  # type: ignore[override]
        """The LaTeX of `ssl-sweep table --format tex`; the caption is by default the sweeps' names."""
        return render(self.ablation, "tex", caption=caption or self.caption, label=label)

    def to_markdown(self) -> str:  # type: ignore[override]
        """The Markdown of `ssl-sweep table`."""
        return render(self.ablation, "md")

    def __repr__(self) -> str:
        return self._text() if self._is_unchanged() else super().__repr__()

    def _repr_html_(self) -> str | None:
        is_unchanged = self._is_unchanged()
        return render(self.ablation, "html") if is_unchanged else super()._repr_html_()  # type: ignore[misc]

    def _is_unchanged(self) -> bool:
        return bool(self.equals(_frame(self.ablation)))

    def _text(self) -> str:
        shown = grid(self.ablation)
        texts = pd.DataFrame(shown.lines, columns=list(shown.headers))
        return "\n".join([texts.to_string(index=False), *self.notes])


def _frame(table: Table) -> pd.DataFrame:
    keys = [row.key for row in table.body]
    index = pd.MultiIndex.from_tuples(keys, names=table.rows) if len(table.rows) > 1 else None
    if index is None:
        index = pd.Index([part for (part,) in keys], name=table.rows[0])
    columns = {}
    for number, metric in enumerate(table.column_names):
        cells = [row.cells[number] for row in table.body]
        for name in (*ALWAYS, *SOMETIMES):
            figures = [_figure(cell, name) for cell in cells]
            if name in ALWAYS or any(figure is not None for figure in figures):
                kind = "int64" if name == "n" else "float64"
                columns[metric, name] = pd.Series(figures, index=index, dtype=kind)
    return pd.DataFrame(columns, index=index)


def _figure(cell: Cell, name: str) -> float | None:
    if name in ("confirmed", "confirmed_p"):
        return None if cell.confirmed is None else cell.confirmed.p if name == "confirmed_p" else cell.confirmed.mean
    if name == "collapsed":
        return cell.collapsed or None
    figure: float | None = getattr(cell, name)
    return figure
