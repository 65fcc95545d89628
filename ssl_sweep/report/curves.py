"""Plots of metrics by epoch: learning curves, and the health of the features."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ssl_sweep.report.figures import INK, SCALE, Plot, Style, Trace, escaped, number_text, numbers, style, thinned
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.tables.labels import display_name, name_with_unit
from ssl_sweep.tracking import store
from ssl_sweep.tracking.transcript import PREFIX
from ssl_sweep.trialdir.states import TrialState

MAX_TRIALS = 60  # with curves
MAX_STEPS = 200  # of a curve
MAX_NAMED = 7  # choices with a look of their own; more are coloured by their objective
MAX_PLOTS = 6
HEALTH = tuple(
    f"pretrain/{name}" for name in ("effective_rank", "feature_std_val", "feature_std", "alignment", "uniformity")
)
FIRST = ("pretrain/loss", "pretrain/knn_top1_val")
ENDS = {
    TrialState.PRUNED: ("pruned", "x"),
    TrialState.FAILED: ("failed", "triangle-down"),
    TrialState.STOPPED: ("stopped", "square-open"),
    TrialState.INTERRUPTED: ("interrupted", "square-open"),
    TrialState.RUNNING: ("running", "circle-open"),
}


@dataclass(frozen=True)
class Curves:
    """Metrics by epoch of some trials.

    points: trial_id, name, step, value. reached: the last stage that each trial has reported from. looks: by choice.
    labels: the legend's text for each look; empty if colours stand for the objective.
    """

    points: pd.DataFrame
    shown: pd.DataFrame
    reached: Mapping[str, str]
    looks: Mapping[int, Style]
    labels: Mapping[int, str]
    note: str


def read_curves(sweep: Sweep, tracking_uri: str) -> Curves:
    """Read the curves of all trials, or of the best and some of every state."""
    shown = _shown(sweep)
    wanted = [*HEALTH, *_learned(sweep)]
    points = _points(sweep.name, set(shown["trial_id"]), wanted, tracking_uri)
    numbers_shown = set(shown["choice"])
    choices = [choice for choice in sweep.choices if choice.number in numbers_shown]
    named = len(choices) <= MAX_NAMED
    in_order = sorted(choices, key=lambda choice: choice.number)
    looks = {c.number: style(i) for i, c in enumerate(in_order)} if named else _by_rank([c.number for c in choices])
    labels = {c.number: c.label or "every trial" for c in in_order} if named else {}
    left_out = len(sweep.runs) - len(shown)
    note = f"{len(shown)} of {len(sweep.runs)} trials: the best, and some of every state." if left_out else ""
    return Curves(points, shown, _reached(sweep, points), looks, labels, note)


def learning_plots(sweep: Sweep, curves: Curves) -> list[Plot]:
    """Loss, k-NN during pretraining and metrics of evaluations, by epoch."""
    counted = curves.points.groupby("name")["step"].nunique()
    several = {str(name) for name, steps in counted.items() if steps > 1}
    return [_plot(curves, name) for name in _learned(sweep) if name in several][:MAX_PLOTS]


def health_plots(sweep: Sweep, curves: Curves) -> list[Plot]:
    """Effective rank, spread, alignment and uniformity of the features by epoch."""
    measured = set(curves.points["name"])
    threshold = (sweep.spec.get("health") or {}).get("collapse_below")
    plots = [_plot(curves, name) for name in HEALTH if name in measured]
    for plot, name in zip(plots, (name for name in HEALTH if name in measured), strict=True):
        if name.startswith("pretrain/feature_std") and threshold is not None:
            plot.layout["shapes"] = [
                {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": threshold, "y1": threshold,
                 "line": {"color": INK, "dash": "dash", "width": 1}}
            ]  # fmt: skip
            plot.layout["annotations"] = [
                {"xref": "paper", "x": 1, "y": threshold, "xanchor": "right", "yanchor": "bottom",
                 "text": "collapse", "showarrow": False, "font": {"size": 11, "color": INK}}
            ]  # fmt: skip
    return plots


def _stages(sweep: Sweep) -> tuple[str, ...]:
    return ("pretrain", *(sweep.spec.get("evaluate") or {}))


def _reached(sweep: Sweep, points: pd.DataFrame) -> dict[str, str]:
    """The last stage that each trial has reported from."""
    order = {stage: rank for rank, stage in enumerate(_stages(sweep))}
    reached: dict[str, str] = {}
    for trial_id, name in zip(points["trial_id"], points["name"], strict=True):
        stage = name.rpartition("/")[0]
        reached[trial_id] = max(reached.get(trial_id, stage), stage, key=order.__getitem__)
    return reached


def _learned(sweep: Sweep) -> list[str]:
    """The metrics that can have a learning curve, the most important first."""
    stages = _stages(sweep)
    names = [
        name
        for name in sweep.runs.columns
        if name.rpartition("/")[0] in stages and name not in HEALTH and (name.endswith(("/loss", "_val")))
    ]
    first = [*FIRST, sweep.metric]
    names = [name for name in names if "best" not in name or name in first]
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name.endswith("/loss")))


def _shown(sweep: Sweep) -> pd.DataFrame:
    runs = sweep.runs
    if len(runs) <= MAX_TRIALS:
        return runs
    best = sweep.best_first(runs).head(MAX_TRIALS // 2)
    rest = runs.drop(best.index)
    per_state = (MAX_TRIALS - len(best)) // max(rest["state"].nunique(), 1)
    some = [part.iloc[thinned(len(part), max(per_state, 2))] for _, part in rest.groupby("state")]
    return pd.concat([best, *some]).sort_index()


def _by_rank(best_first: Sequence[int]) -> dict[int, Style]:
    """Looks in order of drawing: the worst choice first, so that the best ones are on top."""
    count = len(best_first)
    return {
        number: Style(SCALE[rank * len(SCALE) // count], "solid", "circle")
        for rank, number in enumerate(reversed(best_first))
    }


def _points(sweep: str, trial_ids: set[str], names: Sequence[str], tracking_uri: str) -> pd.DataFrame:
    client = store.connect(tracking_uri)
    trials = store.trial_runs(client, sweep, tracking_uri)
    ids = {trial.run_id: trial.tags.get(f"{PREFIX}trial_id", "") for trial in trials}
    wanted = [trial for trial in trials if ids[trial.run_id] in trial_ids]
    points = [
        (ids[point.run_id], point.name, point.step, point.value)
        for point in store.metric_points(client, wanted, tracking_uri, names)
        if ids[point.run_id] in trial_ids
    ]
    return pd.DataFrame(sorted(points), columns=["trial_id", "name", "step", "value"])


def _plot(curves: Curves, name: str) -> Plot:
    points = curves.points[curves.points["name"] == name]
    by_trial = {str(trial_id): part for trial_id, part in points.groupby("trial_id")}
    data: list[Trace] = []
    for choice, look in curves.looks.items():
        trials = curves.shown[curves.shown["choice"] == choice]
        pairs = zip(trials["seed"], trials["trial_id"], strict=True)
        measured = [(int(seed), by_trial[trial_id]) for seed, trial_id in pairs if trial_id in by_trial]
        if measured:
            data.append(_curve(measured, look, curves.labels.get(choice, "")))
    data += _ends(curves, by_trial, name.rpartition("/")[0])
    last = [float(part["value"].iloc[-1]) for part in by_trial.values() if math.isfinite(part["value"].iloc[-1])]
    shown = display_name(name)
    range_ = f"ends between {number_text(min(last))} and {number_text(max(last))}" if last else "has no finite value"
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": escaped(name_with_unit(name))}},
        "showlegend": False,
    }
    return Plot(shown, f"{shown} by epoch of {len(by_trial)} trials; it {range_}", data, layout)


def _curve(trials: Sequence[tuple[int, pd.DataFrame]], look: Style, label: str) -> Trace:
    """The curves of one choice's seeds as one trace, with gaps between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for seed, part in trials:
        kept = part.iloc[thinned(len(part), MAX_STEPS)]
        x += [*map(int, kept["step"]), None]
        y += [*numbers(map(float, kept["value"])), None]
        texts += [escaped(f"{label}, seed {seed}" if label else f"seed {seed}")] * (len(kept) + 1)
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) < 4 * len(trials) else "lines",
        "x": x,
        "y": y,
        "text": texts,
        "hovertemplate": "%{text}<br>epoch %{x}: %{y}<extra></extra>",
        "line": {"color": look.color, "dash": look.dash, "width": 1.6},
        "marker": {"color": look.color, "symbol": look.symbol, "size": 6},
    }


def _ends(curves: Curves, by_trial: Mapping[str, pd.DataFrame], stage: str) -> list[Trace]:
    """Marks at the ends of trials that are not COMPLETE, in the stage where they ended."""
    traces: list[Trace] = []
    for state, (word, symbol) in ENDS.items():
        ended = curves.shown[curves.shown["state"] == state]["trial_id"]
        last = [
            by_trial[trial_id].iloc[-1]
            for trial_id in ended
            if trial_id in by_trial and curves.reached[trial_id] == stage
        ]
        if last:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [int(point["step"]) for point in last],
                    "y": numbers(float(point["value"]) for point in last),
                    "hovertemplate": f"{word} after epoch %{{x}}<extra></extra>",
                    "marker": {"color": INK, "symbol": symbol, "size": 9},
                }
            )
    return traces
