"""Plots of the best value so far, over time or over trials, of one or more sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ssl_sweep.report.figures import COLORS, INK, Plot, Trace, escaped, number_text, numbers, shortened, style, thinned
from ssl_sweep.service.board.snapshot import Snapshot
from ssl_sweep.tables.labels import display_name, name_with_unit

By = Literal["time", "trials"]
MAX_DOTS = 1000  # single trials beside the line
UNITS = ((2 * 86_400.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


@dataclass(frozen=True)
class History:
    """A metric of a sweep's complete trials in the order in which they ended.

    points: seconds since the sweep's first trial began (0 if the service did not see it), the metric, the trial.
    """

    name: str
    metric: str
    lowest: bool
    points: tuple[tuple[float, float, str], ...]

    @property
    def steps(self) -> list[tuple[int, float, float]]:
        """The points where the best value changes, and the end: number of trials, seconds, the best value."""
        steps: list[tuple[int, float, float]] = []
        for number, (seconds, value, _) in enumerate(self.points, 1):
            best = steps[-1][2] if steps else None
            if best is None or (value < best if self.lowest else value > best):
                steps.append((number, seconds, value))
        if steps and steps[-1][0] < len(self.points):
            steps.append((len(self.points), self.points[-1][0], steps[-1][2]))
        return steps


def history(snapshot: Snapshot, metric: str, by: By) -> History:
    """The history of a metric, without the trials with fresh seeds that confirm the best choices."""
    rows = [row for row in snapshot.rows if not row.trial.confirms and metric in (row.trial.results or {})]
    if by == "time":
        rows = [row for row in rows if row.ended is not None]
    times = [row.began or row.ended for row in snapshot.rows if row.began or row.ended]
    began = min((time for time in times if time is not None), default=0.0)
    points = [
        ((row.ended or began) - began, float((row.trial.results or {})[metric]), f"{row.label}, seed {row.trial.seed}")
        for row in rows
    ]
    points = [point for point in points if abs(point[1]) < float("inf")]
    return History(snapshot.name, metric, snapshot.lowest(metric), tuple(sorted(points, key=lambda point: point[0])))


def best_so_far(histories: Sequence[History], by: By) -> Plot | None:
    """A step line for each sweep, and all trials of a single sweep. None if no trial is complete."""
    histories = [each for each in histories if each.points]
    if not histories:
        return None
    _, unit, word = next(each for each in UNITS if max(history.points[-1][0] for history in histories) >= each[0])
    data: list[Trace] = [_dots(histories[0], by, unit)] if len(histories) == 1 else []
    data += [_line(each, index, by, unit) for index, each in enumerate(histories)]
    metric = histories[0].metric
    title = f"Best {display_name(metric)} so far"
    across = f"{word} since the first trial began" if by == "time" else "complete trials"
    ends = [f"{each.name}: {number_text(each.steps[-1][2])} of {len(each.points)} trials" for each in histories]
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": across}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": escaped(name_with_unit(metric))}},
        "showlegend": len(histories) > 1,
    }
    return Plot(title, f"{title}; {'; '.join(ends)}", data, layout)


def _line(history: History, index: int, by: By, unit: float) -> Trace:
    look = style(index)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escaped(shortened(history.name)),
        "x": numbers(seconds / unit if by == "time" else number for number, seconds, _ in history.steps),
        "y": numbers(best for *_, best in history.steps),
        "hovertemplate": "%{fullData.name}: %{y}<extra></extra>",
        "line": {"color": look.color, "dash": look.dash, "width": 2.4, "shape": "hv"},
    }


def _dots(history: History, by: By, unit: float) -> Trace:
    shown = [(index + 1, *history.points[index]) for index in thinned(len(history.points), MAX_DOTS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "trials",
        "x": numbers(seconds / unit if by == "time" else number for number, seconds, *_ in shown),
        "y": numbers(value for _, _, value, _ in shown),
        "text": [escaped(shortened(label, 80)) for *_, label in shown],
        "hovertemplate": "%{text}: %{y}<extra></extra>",
        "marker": {"color": INK if len(shown) < 100 else COLORS[0], "size": 6, "opacity": 0.45},
    }
