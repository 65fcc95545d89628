"""The `table` section of a spec: what the sweep's ablation table shows."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from ssl_sweep.problems import Collector, nearest
from ssl_sweep.spec_parts import metric_remedy
from ssl_sweep.spec_search import Choices, Range
from ssl_sweep.spec_section import Section

_Texts = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)


class Table(Section):
    """Rows, columns and published figures of the table; what is missing is derived."""

    called: ClassVar[str] = "table"

    rows: Annotated[
        tuple[str, ...],
        _Texts,
        Field(strict=False, description="searched knobs, or `case`; empty: every searched knob"),
    ] = ()
    columns: Annotated[
        tuple[str, ...], _Texts, Field(strict=False, description="metrics; empty: every evaluation's `top1_test`")
    ] = ()
    published: dict[str, dict[str, int | float]] = Field(
        default_factory=dict,
        description="{column: {row value: number}}: published figures to show beside; several rows join by `, `",
        json_schema_extra={"default": {}},
    )


def row_label(values: Sequence[Any]) -> str:
    """A row's name in the table and in `published`: its knobs' values, joined by a comma."""
    return ", ".join(str(value) for value in values)


def read_table(
    raw: Mapping[str, Any], searched: Mapping[str, Choices | Range] | None, metrics: list[str] | None, found: Collector
) -> dict[str, Any]:
    """The section with what is derived filled in; what is wrong goes to `found`.

    What has the wrong structure is left as it is, for `Table` to refuse. `searched` and `metrics` are None where the
    spec's search or evaluations are in error.
    """
    read = dict(raw)
    if searched is not None:
        read["rows"] = _names("rows", raw, list(searched), list(searched), "is not searched", found)
    if metrics is not None:
        derived = [metric for metric in metrics if metric.endswith("/top1_test")] or metrics
        message = "is no metric of this spec's evaluations"
        read["columns"] = _names("columns", raw, derived, metrics, message, found, metric_remedy)
    if searched is not None and metrics is not None and isinstance(raw.get("published"), dict):
        labels = _labels([searched[row] for row in read["rows"] if row in searched])
        read["published"] = {
            column: _published(column, figures, read["columns"], labels, found)
            for column, figures in raw["published"].items()
        }
    return read


def _names(
    key: str,
    raw: Mapping[str, Any],
    derived: list[str],
    options: list[str],
    message: str,
    found: Collector,
    remedy: Callable[[str, Sequence[str]], str] = nearest,
) -> Any:
    """The names under `key`, each one of the options; the derived ones where there are none."""
    given = raw.get(key) or derived
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        return names
    for index, name in enumerate(names):
        if isinstance(name, str) and name not in options:
            found.add((key,) if isinstance(given, str) else (key, index), name, message, remedy(name, options))
    return names


def _labels(rows: list[Choices | Range]) -> dict[tuple[Any, ...], str] | None:
    """Every row's label by its plain form; None where a range has values that cannot be listed."""
    values = [row.listed() for row in rows]
    if not all(values):
        return None
    return {_plain(label): label for label in map(row_label, product(*values))}


def _published(
    column: str, figures: Any, columns: Any, labels: Mapping[tuple[Any, ...], str] | None, found: Collector
) -> Any:
    """A column's figures, under the labels of their rows."""
    if column not in columns:
        found.add(("published", column), None, "is not a column of the table", nearest(column, columns))
    if not isinstance(figures, dict) or labels is None:
        return figures
    for row in figures:
        if _plain(row) not in labels:
            remedy = nearest(row, labels.values())
            found.add(("published", column, row), figures[row], "is not a row of the table", remedy)
    sound = {row for row, figure in figures.items() if isinstance(figure, int | float)}
    return {labels.get(_plain(row), row) if row in sound else row: figure for row, figure in figures.items()}


def _plain(label: str) -> tuple[Any, ...]:
    """A label by value, so that the file may say 0, 0.0 or true where the knob's value prints as 0.0 or True."""
    return tuple(_number(part) for part in label.casefold().replace("null", "none").split(", "))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
