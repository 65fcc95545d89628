"""The `table` section of a spec: rows, columns and published figures of the sweep's ablation table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from ssl_sweep.data.recipes import DEFAULTS
from ssl_sweep.knobs.objective import COSTS, UNCHOSEN
from ssl_sweep.knobs.problems import ErrorCollector, Loc, did_you_mean
from ssl_sweep.spec.domains import Categorical, Range
from ssl_sweep.spec.section import Section
from ssl_sweep.spec.sections import NAMED, metric_remedy
from ssl_sweep.tables.labels import label_text, labels_alike, row_label
from ssl_sweep.tracking.transcript import flat
from ssl_sweep.training.health import METRICS as HEALTH_METRICS

_Texts = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
_AsLabel = BeforeValidator(lambda value: row_label([value]) if isinstance(value, int | float) else value)
_Label = Annotated[str, _AsLabel]
_TEXT = {"type": "string"}
_SCALARS = [{"type": kind} for kind in ("string", "number", "boolean")]
_ROWS = {"anyOf": [*_SCALARS, {"type": "array", "items": {"anyOf": _SCALARS}}]}

CONFIG = ("data", "views", "encoder", "method", "pretrain", "health", "evaluate")  # sections recorded with a trial
OF_ALL = ("precision", "seed", "sweep")  # parameters of every trial


class Table(Section):
    """Rows, columns and published figures of the table; missing keys are derived."""

    called: ClassVar[str] = "table"

    rows: Annotated[
        tuple[str, ...],
        _Texts,
        Field(strict=False, description="searched knobs, `case`, or any other parameter; empty: every searched knob"),
    ] = ()
    columns: Annotated[
        tuple[str, ...], _Texts, Field(strict=False, description="metrics; empty: every evaluation's `top1_test`")
    ] = ()
    published: dict[str, dict[str, int | float]] = Field(
        default_factory=dict,
        description="{column: {row value: number}}: published figures to show beside; several rows join by `, `",
        json_schema_extra={"default": {}},
    )
    interval: Annotated[
        Literal["std", "t", "bootstrap"],
        Field(description="beside a mean: ± standard deviation, or its 95 % interval by Student's t or bootstrap"),
    ] = "std"
    baseline: Annotated[
        _Label | None,
        WithJsonSchema({"anyOf": [*_SCALARS, {"type": "null"}]}),
        Field(description="row value of the row that the others are tested against, seed by seed; null: no tests"),
    ] = None
    test: Annotated[
        Literal["t", "wilcoxon"], Field(description="paired t-test, or Wilcoxon's, which needs six seeds or more")
    ] = "t"
    group_by: Annotated[
        Annotated[tuple[str, ...], _Texts, Field(strict=False)]
        | dict[str, Annotated[tuple[_Label, ...], Field(strict=False)]],
        WithJsonSchema(
            {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "object", "additionalProperties": _ROWS}]}
        ),
        Field(
            description="show only the best row of each group, by the objective: parameters such as `method.name`, "
            "or {group: [row values]}"
        ),
    ] = ()


def read_table(
    raw: Mapping[str, Any],
    searched: Mapping[str, Categorical | Range] | None,
    metrics: list[str] | None,
    sections: Mapping[str, Any],
    errors: ErrorCollector,
) -> dict[str, Any]:
    """Fill in the section's derived keys; mistakes go to `errors`.

    A value with the wrong structure stays as it is, and `Table` refuses it. `searched` and `metrics` are None if the
    spec's search or evaluations are in error; `sections` are the spec's valid ones.
    """
    read = dict(raw)
    if metrics is not None:
        search = sections.get("search")
        judged = search.metrics if search is not None and search.objective != UNCHOSEN else ()
        costs = [metric for metric in judged if metric in COSTS]
        derived = ([metric for metric in metrics if metric.endswith("/top1_test")] or metrics) + costs
        options = [*metrics, *_other_metrics(metrics), *(COSTS if costs else ())]
        message = "is no metric of this spec's evaluations"
        read["columns"] = _names("columns", raw, derived, options, message, errors, metric_remedy)
    search = sections.get("search")
    if searched is None:
        return read
    recorded, message = _recorded(sections, searched), "is no parameter of this spec's trials"
    conditional = list(search.branch_knobs) if search is not None else []
    recorded += [path for path in conditional if path not in recorded]
    read["rows"] = _names("rows", raw, [*searched, *conditional], recorded, message, errors)
    labels = _labels(read["rows"], searched)
    if isinstance(raw.get("group_by"), dict):
        read["group_by"] = _groups(raw["group_by"], labels, errors)
        groups: list[str] | None = list(raw["group_by"])
    else:
        read["group_by"] = _names("group_by", raw, [], recorded, message, errors)
        groups = _labels(read["group_by"], searched)
    labels = None if labels is None or groups is None else [*groups, *labels]
    if metrics is not None and isinstance(raw.get("published"), dict):
        read["published"] = {
            column: _published(column, figures, read["columns"], labels, errors)
            for column, figures in raw["published"].items()
        }
    if isinstance(raw.get("baseline"), str | int | float):
        read["baseline"] = _row(("baseline",), raw["baseline"], labels, errors)
    return read


def _names(
    key: str,
    raw: Mapping[str, Any],
    derived: list[str],
    options: list[str],
    message: str,
    errors: ErrorCollector,
    remedy: Callable[[str, Sequence[str]], str] = did_you_mean,
) -> Any:
    """The names under `key`, which must be among the options; without any, the derived ones."""
    given = raw.get(key) or derived
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        return names
    for index, name in enumerate(names):
        if isinstance(name, str) and name not in options:
            errors.add((key,) if isinstance(given, str) else (key, index), name, message, remedy(name, options))
    return names


def _other_metrics(metrics: Sequence[str]) -> list[str]:
    """The metrics that trials report beside their evaluations' results."""
    stages = dict.fromkeys(["pretrain", *(metric.rpartition("/")[0] for metric in metrics)])
    return [*(f"pretrain/{name}" for name in ("loss", *HEALTH_METRICS)), *(f"{stage}/seconds" for stage in stages)]


def _recorded(sections: Mapping[str, Any], searched: Iterable[str]) -> list[str]:
    """Every parameter that a trial of these sections may have in MLflow."""
    config = {name: sections[name] for name in CONFIG if name in sections} | {"views": DEFAULTS}
    cases = sections["search"].cases.values()
    configs = [config, *({name: case[name] for name in NAMED if name in case} for case in cases)]
    for section, branches in sections["search"].branches.items():
        configs += [{section: {"name": branch.name, **branch.fixed}} for branch in branches.choices]
    return list(dict.fromkeys([*searched, *(path for settings in configs for path in flat(settings)), *OF_ALL]))


def _labels(rows: Any, searched: Mapping[str, Categorical | Range]) -> list[str] | None:
    """Every row's label; None if the spec alone does not determine the rows."""
    if not isinstance(rows, list | tuple) or not all(isinstance(row, str) and row in searched for row in rows):
        return None
    values = [searched[row].listed() for row in rows]
    if not all(values):
        return None
    return list(map(row_label, product(*values)))


def _row(loc: Loc, label: Any, labels: Sequence[str] | None, errors: ErrorCollector) -> str:
    """Return a row's label as the table writes it; a row that is not in the table is an error."""
    alike = [] if labels is None else labels_alike(label, labels)
    if labels is not None and not alike:
        errors.add(loc, label, "is not a row of the table", did_you_mean(str(label), labels))
    if len(alike) > 1:
        errors.add(
            loc, label, f"may be one of {len(alike)} rows", f"write one in quotes: {', '.join(map(repr, alike))}"
        )
    return alike[0] if alike else label_text(label)


def _groups(groups: Mapping[str, Any], labels: Sequence[str] | None, errors: ErrorCollector) -> dict[str, Any]:
    """The groups with their rows' labels; a row in two groups is an error."""
    read: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for name, rows in groups.items():
        listed = [rows] if isinstance(rows, str | int | float) else rows
        if not isinstance(listed, list | tuple) or not all(isinstance(row, str | int | float) for row in listed):
            read[name] = rows
            continue
        read[name] = [_row(("group_by", name, index), row, labels, errors) for index, row in enumerate(listed)]
        for index, label in enumerate(read[name]):
            if label in owners:
                message = f"is in group {owners[label]!r} too"
                errors.add(("group_by", name, index), listed[index], message, "put it into one of them")
            owners[label] = name
    return read


def _published(column: str, figures: Any, columns: Any, labels: Sequence[str] | None, errors: ErrorCollector) -> Any:
    """A column's figures by row label."""
    if column not in columns:
        errors.add(("published", column), None, "is not a column of the table", did_you_mean(column, columns))
    if not isinstance(figures, dict):
        return figures
    named = {row: _row(("published", column, row), row, labels, errors) for row in figures}
    # a value that is not a number keeps the file's key, so that the error names it
    return {named[row] if isinstance(figure, int | float) else row: figure for row, figure in figures.items()}
