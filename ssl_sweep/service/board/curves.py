"""Learning curves of selected trials, read from their journals, which are newer than MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_sweep.report.figures import Plot, Trace, escaped, number_text, numbers, shortened, style, thinned
from ssl_sweep.service.board.snapshot import TrialRow
from ssl_sweep.tables.labels import display_name, name_with_unit
from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.events import MetricsReported

MAX_TRIALS = 20  # in one plot
MAX_STEPS = 400  # of a curve
FIRST = ("pretrain/knn_top1_val", "pretrain/loss")  # shown by default if the objective has a single value a trial

Points = Mapping[str, Mapping[int, float]]  # by metric and step


@dataclass(frozen=True)
class LearningCurves:
    """The reported metrics of the selected trials, the metric that is shown, and its plot."""

    metrics: tuple[str, ...]
    metric: str
    plot: Plot | None


def learning_curves(
    rows: Sequence[TrialRow], folders: Sequence[Path], requested: str | None, objective: str
) -> LearningCurves:
    """The curves of trials, whose folders are in the same order. Raises DamagedFileError."""
    reported = [_reported(folder) for folder in folders]
    lengths: dict[str, int] = {}
    for points in reported:
        for name, steps in points.items():
            lengths[name] = max(lengths.get(name, 0), len(steps))
    metrics = tuple(sorted(lengths, key=lambda name: (lengths[name] < 2, name)))
    curved = [name for name in (objective, *FIRST, *metrics) if lengths.get(name, 0) > 1]
    metric = requested if requested in lengths else next(iter([*curved, *metrics]), "")
    data = [_line(row, points[metric], index) for index, (row, points) in enumerate(zip(rows, reported, strict=True))
            if metric in points]  # fmt: skip
    if not data:
        return LearningCurves(metrics, metric, None)
    title = f"{display_name(metric)} by epoch"
    ends = "; ".join(f"{trace['name']} ends at {number_text(trace['y'][-1])}" for trace in data)
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": escaped(name_with_unit(metric))}},
        "showlegend": True,
        "height": 380 + 14 * len(data),
    }
    return LearningCurves(metrics, metric, Plot(title, f"{title}: {ends}", data, layout))


def _reported(folder: Path) -> Points:
    points: dict[str, dict[int, float]] = {}
    for event in journal.read(folder)[0]:
        if isinstance(event, MetricsReported):
            for name, value in event.metrics.items():
                points.setdefault(name, {})[event.step] = value
    return points


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
