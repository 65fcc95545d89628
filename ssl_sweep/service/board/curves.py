"""Learning curves of chosen trials, from their own journals: as new as can be, and MLflow is not asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_sweep.report.figures import Plot, Trace, escaped, figure, numbers, shortened, style, thinned
from ssl_sweep.service.board.snapshot import TrialRow
from ssl_sweep.tables.labels import display_name, name_with_unit
from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.events import MetricsReported

MAX_TRIALS = 20  # at a time
MAX_STEPS = 400  # of a curve
FIRST = ("pretrain/knn_top1_val", "pretrain/loss")  # what is shown unasked, where the objective has no course

Points = Mapping[str, Mapping[int, float]]  # by metric and step


@dataclass(frozen=True)
class Courses:
    """What the chosen trials have reported: the metrics, the one that is shown, and its plot."""

    metrics: tuple[str, ...]
    metric: str
    plot: Plot | None


def courses(rows: Sequence[TrialRow], folders: Sequence[Path], asked: str | None, objective: str) -> Courses:
    """The curves of these trials, whose folders stand in the same order. Raises JournalError."""
    reported = [_reported(folder) for folder in folders]
    lengths: dict[str, int] = {}
    for points in reported:
        for name, steps in points.items():
            lengths[name] = max(lengths.get(name, 0), len(steps))
    metrics = tuple(sorted(lengths, key=lambda name: (lengths[name] < 2, name)))
    courses_ = [name for name in (objective, *FIRST, *metrics) if lengths.get(name, 0) > 1]
    metric = asked if asked in lengths else next(iter([*courses_, *metrics]), "")
    data = [_line(row, points[metric], index) for index, (row, points) in enumerate(zip(rows, reported, strict=True))
            if metric in points]  # fmt: skip
    if not data:
        return Courses(metrics, metric, None)
    title = f"{display_name(metric)} by epoch"
    said = "; ".join(f"{trace['name']} ends at {figure(trace['y'][-1])}" for trace in data)
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": escaped(name_with_unit(metric))}},
        "showlegend": True,
        "height": 380 + 14 * len(data),
    }
    return Courses(metrics, metric, Plot(title, f"{title}: {said}", data, layout))


def _reported(folder: Path) -> Points:
    found: dict[str, dict[int, float]] = {}
    for event in journal.read(folder)[0]:
        if isinstance(event, MetricsReported):
            for name, value in event.metrics.items():
                found.setdefault(name, {})[event.step] = value
    return found


def _line(row: TrialRow, steps: Mapping[int, float], index: int) -> Trace:
    ordered = sorted(steps.items())
    shown = [ordered[i] for i in thinned(len(ordered), MAX_STEPS)]
    look = style(index)
    name = f"{row.label}, seed {row.trial.seed}" if row.label else f"seed {row.trial.seed}"
    return {
        "type": "scatter",
        "mode": "lines" if len(shown) > 1 else "markers",
        "name": escaped(shortened(name, 60)),
        "x": [step for step, _ in shown],
        "y": numbers(value for _, value in shown),
        "hovertemplate": "%{fullData.name}<br>epoch %{x}: %{y}<extra></extra>",
        "line": {"color": look.color, "dash": look.dash, "width": 1.8},
        "marker": {"color": look.color, "symbol": look.symbol, "size": 7},
    }
