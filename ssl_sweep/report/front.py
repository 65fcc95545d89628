"""The plot of two objectives: a point for each choice, and the Pareto front."""

from typing import Any

from ssl_sweep.report.figures import COLORS, INK, Plot, Trace, escaped, number_text, numbers, shortened
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.tables.labels import display_name, name_with_unit
from ssl_sweep.tables.pareto import on_front
from ssl_sweep.tables.pivot import is_fresh
from ssl_sweep.trialdir.states import TrialState

MAX_NAMED = 12  # choices in the plot's description


def front_plot(sweep: Sweep) -> Plot | None:
    """The first objective over the second; None with one objective, or if no choice has both."""
    metrics = [objective.metric for objective in sweep.objectives]
    if len(metrics) < 2 or not all(metric in sweep.runs.columns for metric in metrics):
        return None
    complete = sweep.runs[(sweep.runs["state"] == TrialState.COMPLETE) & ~is_fresh(sweep.runs)]
    means = complete.groupby("choice")[metrics].mean().dropna().sort_values(metrics[1])
    if means.empty:
        return None
    signs = [objective.sign for objective in sweep.objectives]
    counts = complete.groupby("choice")[metrics[0]].count()[means.index]
    whole = (counts == counts.max()).to_numpy()  # the mean over fewer seeds may be luck
    points = [(signs[0] * first, signs[1] * second) for first, second in means[whole].itertuples(index=False)]
    front = iter(on_front(points))
    best = [is_whole and next(front) for is_whole in whole.tolist()]
    names = {choice.number: choice.label for choice in sweep.choices}
    labels = [names[int(number)] for number in means.index]
    data = [
        _points(means, metrics, labels, [not each for each in best], front=False),
        _points(means, metrics, labels, best, front=True),
    ]
    title = f"{display_name(metrics[0])} by {display_name(metrics[1])}"
    layout = {
        "xaxis": {"title": {"text": escaped(name_with_unit(metrics[1]))}},
        "yaxis": {"title": {"text": escaped(name_with_unit(metrics[0]))}},
        "showlegend": True,
    }
    return Plot(title, f"{title}; on the front: {_description(data[1])}", data, layout)


def _points(means: Any, metrics: list[str], labels: list[str], chosen: list[bool], *, front: bool) -> Trace:
    shown = means[chosen]
    names = [label for label, is_shown in zip(labels, chosen, strict=True) if is_shown]
    return {
        "type": "scatter",
        "mode": "lines+markers" if front else "markers",
        "name": "on the front" if front else "not on the front",
        "x": numbers(map(float, shown[metrics[1]])),
        "y": numbers(map(float, shown[metrics[0]])),
        "text": [escaped(shortened(name, 80) or "the only choice") for name in names],
        "hovertemplate": "%{text}: %{y} at %{x}<extra></extra>",
        "line": {"color": COLORS[0], "width": 2},
        "marker": {"color": COLORS[0] if front else INK, "size": 9, "symbol": "circle" if front else "circle-open"},
    }


def _description(front: Trace) -> str:
    points = [f"{number_text(y)} at {number_text(x)}" for x, y in zip(front["x"], front["y"], strict=True)]
    more = f" and {len(points) - MAX_NAMED} more" if len(points) > MAX_NAMED else ""
    return ", ".join(points[:MAX_NAMED]) + more
