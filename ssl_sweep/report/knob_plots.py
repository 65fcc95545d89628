"""Plots of the table's metrics over each searched knob: means with intervals, and published figures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ssl_sweep.report.choices import Knob
from ssl_sweep.report.figures import INK, Plot, Style, Trace, escaped, number_text, numbers, shortened, style, thinned
from ssl_sweep.report.sweep import Sweep, label_of
from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.labels import display_name, label_text, name_with_unit, value_text
from ssl_sweep.tables.pivot import is_fresh, values_of
from ssl_sweep.tables.table import Cell, Interval, Row
from ssl_sweep.trialdir.states import TrialState

MAX_LINES = 7  # in a plot, one for each setting of the other row knobs
MAX_POINTS = 500
CROWD = 50  # points; if there are more, they are drawn smaller
MAX_DOTS = 400  # single trials beside the means
MAX_NAMED = 12  # values in a plot's description and on its axis
LABEL = 18  # characters of a tick's label
APART = 0.12  # offset between lines, as a share of the distance between categories


class Mean(NamedTuple):
    """A knob's value, and a metric over the trials with it."""

    value: Any
    cell: Cell


def knob_plots(sweep: Sweep, knobs: Sequence[Knob], metrics: Sequence[str]) -> list[Plot]:
    """A plot for each knob that varies and each metric that was measured."""
    measured = [metric for metric in metrics if metric in sweep.runs.columns]
    plots = []
    for knob in knobs if measured else ():
        if len(knob.values) > 1:
            rows = _lines(sweep, knob, measured)
            for index, metric in enumerate(measured):
                lines = {name: [Mean(row.key[0], row.cells[index]) for row in each] for name, each in rows.items()}
                plots.append(_plot(sweep, knob, metric, lines))
    return plots


def interval_of(sweep: Sweep) -> Interval:
    """The kind of 95 % interval in the plots: the table's, or Student's t if the table has standard deviations."""
    return "bootstrap" if (sweep.spec.get("table") or {}).get("interval") == "bootstrap" else "t"


def has_intervals(plots: Iterable[Plot]) -> bool:
    """Whether any plot shows an interval, which takes two seeds."""
    return any(any(trace["error_y"]["array"]) for plot in plots for trace in plot.data if "error_y" in trace)


def _plot(sweep: Sweep, knob: Knob, metric: str, lines: Mapping[str, Sequence[Mean]]) -> Plot:
    data: list[Trace] = []
    for index, (name, means) in enumerate(lines.items()):
        aside = 0.0 if knob.numeric else APART * (index - (len(lines) - 1) / 2)
        data += _line(knob, name, means, style(index), aside)
    if len(lines) == 1 and len(sweep.runs) <= MAX_DOTS:
        data.insert(0, _dots(sweep, knob, metric))
    shown = display_name(metric)
    title = f"{shown} by {knob.name}"
    legend = len(lines) > 1 or any(mean.cell.published is not None for means in lines.values() for mean in means)
    yaxis = {"title": {"text": escaped(name_with_unit(metric))}, **_height(data)}
    layout = {"xaxis": _axis(knob), "yaxis": yaxis, "showlegend": legend}
    return Plot(title, f"{title}: {_description(lines)}", data, layout)


def _lines(sweep: Sweep, knob: Knob, metrics: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of a table of this knob, a line for each setting of the other row knobs if these are few."""
    wanted = sweep.spec.get("table") or {}
    published, named = wanted.get("published") or {}, list(wanted.get("rows") or [])
    others = [row for row in sweep.rows if row != knob.path] if knob.path in named else []
    settings = set(zip(*(values_of(sweep.runs, row) for row in others), strict=True))
    apart = 1 < len(settings) <= MAX_LINES
    rows = [knob.path, *(others if apart else [])]
    figures = _reordered(published, named, knob.path) if len(rows) == len(named) else {}
    table = ablation(sweep.runs, rows=rows, columns=metrics, published=figures, interval=interval_of(sweep))
    lines: dict[str, list[Row]] = defaultdict(list)
    for row in table.body:
        lines[label_of(dict(zip(rows[1:], row.key[1:], strict=True)))].append(row)
    return lines


def _reordered(
    published: Mapping[str, Mapping[Any, float]], rows: Sequence[str], first: str
) -> dict[str, dict[Any, float]]:
    """Published figures, with the value of `first` moved to the front of each row's key."""
    if first not in rows:
        return {}
    place = rows.index(first)
    reordered: dict[str, dict[Any, float]] = defaultdict(dict)
    for metric, figures in published.items():
        for label, figure_ in figures.items():
            parts = [part.strip() for part in label_text(label).split(",")]
            if len(parts) == len(rows):
                reordered[metric][", ".join([parts[place], *parts[:place], *parts[place + 1 :]])] = figure_
    return reordered


def _line(knob: Knob, name: str, means: Sequence[Mean], look: Style, aside: float) -> list[Trace]:
    """Means with intervals, and published figures dashed and hollow; shifted by `aside` from other lines."""
    measured = [mean for mean in means if mean.cell.mean is not None]
    measured = [measured[i] for i in thinned(len(measured), MAX_POINTS)]
    ours = _marks(knob, measured, aside) | {
        "mode": "lines+markers" if knob.numeric and not knob.sampled else "markers",
        "name": escaped(shortened(name)) or "this sweep",
        "y": numbers(mean.cell.mean for mean in measured),
        "error_y": {
            "type": "data",
            "array": numbers(_above(mean.cell) for mean in measured),
            "arrayminus": numbers(_below(mean.cell) for mean in measured),
            "thickness": 1.2,
            "width": 4,
        },
        "text": [escaped(_hover_text(knob, mean, name)) for mean in measured],
        "line": {"color": look.color, "dash": look.dash, "width": 2},
        "marker": {"color": look.color, "symbol": look.symbol, "size": 8 if len(measured) <= CROWD else 5},
    }
    known = [mean for mean in means if mean.cell.published is not None]
    color = look.color if name else INK
    published = _marks(knob, known, aside) | {
        "mode": "lines+markers" if knob.numeric else "markers",
        "name": escaped(shortened(f"published, {name}" if name else "published")),
        "y": numbers(mean.cell.published for mean in known),
        "text": [escaped(f"{number_text(mean.cell.published)} published {name}") for mean in known],
        "line": {"color": color, "dash": "dash", "width": 1.5},
        "marker": {"color": color, "symbol": f"{look.symbol}-open", "size": 8},
    }
    return [ours, *([published] if known else [])]


def _dots(sweep: Sweep, knob: Knob, metric: str) -> Trace:
    """A point for each COMPLETE trial."""
    complete = sweep.runs[(sweep.runs["state"] == TrialState.COMPLETE) & ~is_fresh(sweep.runs)]
    return {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": [_position(knob, value) for value in values_of(complete, knob.path)],
        "y": numbers(map(float, complete[metric])),
        "text": [f"seed {seed}" for seed in complete["seed"]],
        "hovertemplate": "%{text}: %{y}<extra></extra>",
        "marker": {"color": INK, "size": 6, "opacity": 0.6, "symbol": "circle-open"},
    }


def _marks(knob: Knob, means: Sequence[Mean], aside: float) -> Trace:
    places = [_position(knob, mean.value) + aside for mean in means]
    return {"type": "scatter", "x": places, "hovertemplate": "%{text}<extra></extra>"}


def _position(knob: Knob, value: Any) -> float:
    """A value's position on the axis; values that are no numbers are numbered."""
    return float(value) if knob.numeric else float(knob.values.index(value))


def _axis(knob: Knob) -> dict[str, Any]:
    title = {"title": {"text": escaped(knob.name)}}
    listed = [knob.values[i] for i in thinned(len(knob.values), MAX_NAMED)]
    ticks = {
        "tickvals": [_position(knob, value) for value in listed],
        "ticktext": [escaped(shortened(value_text(value), LABEL)) for value in listed],
    }
    if not knob.numeric:
        return {**title, **ticks, "range": [-0.5, len(knob.values) - 0.5], "showgrid": False, "zeroline": False}
    scale = {"type": "log", "minorloglabels": "complete", "tickformat": "~g"} if knob.log else {}
    return {**title, **scale, **({} if knob.sampled or len(knob.values) > MAX_NAMED else ticks)}


def _height(data: Sequence[Trace]) -> dict[str, Any]:
    """An axis range with all values, but only a part of wide intervals.

    Student's interval of two seeds is nine times as wide as their deviation; in full it would flatten the rest.
    """
    values = [y for trace in data for y in trace["y"] if y is not None]
    if not values:
        return {}
    low, high = min(values), max(values)
    extent = 0.6 * (high - low) or abs(high) * 0.05 or 1.0
    bars = [(trace["y"], trace["error_y"]) for trace in data if "error_y" in trace]
    tops = [y + up for ys, bar in bars for y, up in zip(ys, bar["array"], strict=True)]
    bottoms = [y - down for ys, bar in bars for y, down in zip(ys, bar["arrayminus"], strict=True)]
    bottom = max(min([low, *bottoms]), low - extent)
    top = min(max([high, *tops]), high + extent)
    margin = 0.06 * (top - bottom) or extent
    return {"range": numbers([bottom - margin, top + margin])}


def _above(cell: Cell) -> float:
    return 0.0 if cell.high is None or cell.mean is None else cell.high - cell.mean


def _below(cell: Cell) -> float:
    return 0.0 if cell.low is None or cell.mean is None else cell.mean - cell.low


def _hover_text(knob: Knob, mean: Mean, name: str) -> str:
    value, cell = mean
    spread = "" if cell.low is None else f", 95 % interval {number_text(cell.low)} to {number_text(cell.high)}"
    of_line = f" ({name})" if name else ""
    return f"{knob.name} {value_text(value)}{of_line}: {number_text(cell.mean)}{spread}, n = {cell.n}"


def _description(lines: Mapping[str, Sequence[Mean]]) -> str:
    parts = []
    for name, means in lines.items():
        measured = [mean for mean in means if mean.cell.mean is not None]
        values = [f"{value_text(mean.value)}: {number_text(mean.cell.mean)}" for mean in measured[:MAX_NAMED]]
        more = [f"and {len(measured) - MAX_NAMED} more"] if len(measured) > MAX_NAMED else []
        parts.append((f"{name}: " if name else "") + (", ".join([*values, *more]) or "no values yet"))
    return "; ".join(parts)
