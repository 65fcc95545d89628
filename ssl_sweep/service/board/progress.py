"""Plots of the best choice so far, over time or over trials, of one or more sweeps."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple

from ssl_sweep.knobs.best import Scores
from ssl_sweep.report.figures import COLORS, INK, Plot, Trace, escaped, number_text, numbers, shortened, style, thinned
from ssl_sweep.service.board.snapshot import Snapshot
from ssl_sweep.tables.labels import display_name, name_with_unit

By = Literal["time", "trials"]
MAX_DOTS = 1000  # single trials beside the line
UNITS = ((2 * 86_400.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


class Point(NamedTuple):
    """A complete trial: seconds since the sweep's first trial began (0 if the service did not see it), and a metric."""

    seconds: float
    value: float
    label: str
    choice: int
    score: float  # of the metric that chooses


@dataclass(frozen=True)
class History:
    """A metric of a sweep's complete trials in the order in which they ended; `lowest`: whether low scores are best."""

    name: str
    metric: str
    lowest: bool
    points: tuple[Point, ...]

    @property
    def steps(self) -> list[tuple[int, float, float]]:
        """The points where the value of the best choice changes, and the end: number of trials, seconds, the value.

        The best choice is that of `knobs.best` at each moment, and its value the mean over its seeds.
        """
        sign = -1 if self.lowest else 1
        of_choices: dict[int, list[Point]] = defaultdict(list)
        best, steps = self.points[0].choice if self.points else 0, list[tuple[int, float, float]]()
        for number, point in enumerate(self.points, 1):
            of_choices[point.choice].append(point)
            # another seed only ever raises a choice's rank
            best = max(best, point.choice, key=lambda choice: _rank(of_choices[choice], sign))
            value = fmean(each.value for each in of_choices[best])
            if not steps or value != steps[-1][2]:
                steps.append((number, point.seconds, value))
        if steps and steps[-1][0] < len(self.points):
            steps.append((len(self.points), self.points[-1].seconds, steps[-1][2]))
        return steps


def _rank(points: Sequence[Point], sign: int) -> tuple[tuple[float, ...], ...]:
    return Scores([point.score for point in points], missing=-len(points)).rank(sign)


def history(snapshot: Snapshot, metric: str, by: By) -> History:
    """The history of a metric, without the trials with fresh seeds that confirm the best choices.

    A metric of the test split does not choose: the objective does.
    """
    chooser = snapshot.objectives[0].metric if metric.endswith("_test") and snapshot.objectives else metric
    rows = [(row, row.trial.results or {}) for row in snapshot.rows if not row.trial.confirms]
    rows = [(row, results) for row, results in rows if {metric, chooser} <= results.keys()]
    if by == "time":
        rows = [(row, results) for row, results in rows if row.ended is not None]
    times = [row.began or row.ended for row in snapshot.rows if row.began or row.ended]
    began = min((time for time in times if time is not None), default=0.0)
    points = [
        Point(
            (row.ended or began) - began,
            float(results[metric]),
            f"{row.label}, seed {row.trial.seed}",
            row.trial.choice,
            float(results[chooser]),
        )
        for row, results in rows
    ]
    points = [point for point in points if math.isfinite(point.value) and math.isfinite(point.score)]
    return History(
        snapshot.name, metric, snapshot.lowest(chooser), tuple(sorted(points, key=lambda each: each.seconds))
    )


def best_so_far(histories: Sequence[History], by: By) -> Plot | None:
    """A step line for each sweep, and all trials of a single sweep. None if no trial is complete."""
    histories = [each for each in histories if each.points]
    if not histories:
        return None
    _, unit, word = next(each for each in UNITS if max(history.points[-1].seconds for history in histories) >= each[0])
    data: list[Trace] = [_dots(histories[0], by, unit)] if len(histories) == 1 else []
    data += [_line(each, index, by, unit) for index, each in enumerate(histories)]
    metric = histories[0].metric
    title = f"{display_name(metric)} of the best choice so far"
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
    shown = [(index + 1, history.points[index]) for index in thinned(len(history.points), MAX_DOTS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "trials",
        "x": numbers(point.seconds / unit if by == "time" else number for number, point in shown),
        "y": numbers(point.value for _, point in shown),
        "text": [escaped(shortened(point.label, 80)) for _, point in shown],
        "hovertemplate": "%{text}: %{y}<extra></extra>",
        "marker": {"color": INK if len(shown) < 100 else COLORS[0], "size": 6, "opacity": 0.45},
    }
