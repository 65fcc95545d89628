"""The figures as data: their numbers against the trials', their shape against plotly's own schema."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from scipy import stats

from ssl_sweep.report.figures import COLORS, SCALE, Plot, escaped, style, thinned
from ssl_sweep.report.knob_plots import MAX_POINTS, has_intervals, knob_plots
from ssl_sweep.report.relations import MAX_CHOICES, importance, parallel_coordinates
from ssl_sweep.report.sweep import Sweep

TEST, VAL = "finetune/top1_test", "finetune/top1_val"
ALPHA, LR, POOL = "views.overlay_alpha", "pretrain.lr", "encoder.pool"


def make_sweep(space: Mapping[str, Any], trials: Iterable[tuple[tuple[Any, ...], int, float]], **table: Any) -> Sweep:
    """A sweep of trials (values of the knobs, seed, top-1), whose test score is one above the validation score."""
    choices: dict[tuple[Any, ...], int] = {}
    rows = [
        {"trial_id": f"{values}-{seed}", "sweep": "demo", "choice": choices.setdefault(values, len(choices)),
         "seed": seed, "state": "COMPLETE", **dict(zip(space, values, strict=True)), VAL: top1, TEST: top1 + 1}
        for values, seed, top1 in trials
    ]  # fmt: skip
    spec = {
        "search": {"space": dict(space), "objective": f"maximize {VAL}"},
        "table": {"rows": list(space), "columns": [TEST], **table},
    }
    started = pd.Timestamp("2026-01-01", tz="UTC")
    return Sweep("demo", spec, pd.DataFrame(rows), started, (), frozenset(), None)


SCORES = {0.0: (40.0, 44.0, 45.0), 0.1: (50.0, 51.0, 55.0), 0.3: (47.0, 48.0, 49.5)}


def overlay(**table: Any) -> Sweep:
    trials = [((alpha,), seed, top1) for alpha, by_seed in SCORES.items() for seed, top1 in enumerate(by_seed)]
    return make_sweep({ALPHA: [0.0, 0.1, 0.3]}, trials, **table)


def plot_of(sweep: Sweep) -> Plot:
    [plot] = knob_plots(sweep, sweep.knobs, [TEST])
    return plot


def checked(plot: Plot) -> Plot:
    """The plot, once plotly has found no fault with it."""
    fill = re.compile(r"^--.*")

    def coloured(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: coloured(each) for key, each in value.items()}
        if isinstance(value, list):
            return [coloured(each) for each in value]
        return fill.sub("#000", value) if isinstance(value, str) else value

    go.Figure(data=coloured(list(plot.data)), layout=coloured(plot.layout))
    return plot


def test_means_and_intervals_are_those_of_the_seeds() -> None:
    plot = checked(plot_of(overlay()))
    dots, means = plot.data
    assert means["x"] == [0.0, 0.1, 0.3]
    for index, by_seed in enumerate(SCORES.values()):
        scores = [score + 1 for score in by_seed]
        low, high = stats.t.interval(0.95, 2, statistics.mean(scores), statistics.stdev(scores) / math.sqrt(3))
        assert means["y"][index] == pytest.approx(statistics.mean(scores), rel=1e-4)
        assert means["y"][index] + means["error_y"]["array"][index] == pytest.approx(high, rel=1e-3)
        assert means["y"][index] - means["error_y"]["arrayminus"][index] == pytest.approx(low, rel=1e-3)
    assert sorted(dots["y"]) == sorted(score + 1 for by_seed in SCORES.values() for score in by_seed)
    assert "0.1: 53" in plot.alt
    low, high = plot.layout["yaxis"]["range"]
    assert low < min(dots["y"]) < max(dots["y"]) < high


def test_the_published_curve_is_dashed_and_hollow() -> None:
    plot = checked(plot_of(overlay(published={TEST: {"0": 37.1, "0.3": 38.1}})))
    published = plot.data[-1]
    assert (published["x"], published["y"]) == ([0.0, 0.3], [37.1, 38.1])
    assert published["line"]["dash"] == "dash"
    assert published["marker"]["symbol"].endswith("-open")
    assert plot.layout["showlegend"]
    assert plot.layout["yaxis"]["range"][0] < 37.1


def test_another_row_knob_makes_a_line_each_and_keeps_its_published_figures() -> None:
    space = {POOL: ["mean", "max"], ALPHA: [0.0, 0.3]}
    trials = [((pool, alpha), 0, 50 + 10 * alpha + len(pool)) for pool in space[POOL] for alpha in space[ALPHA]]
    sweep = make_sweep(space, trials, published={TEST: {"mean, 0.0": 1.0, "mean, 0.3": 2.0}})
    by_pool, by_alpha = (checked(plot) for plot in knob_plots(sweep, sweep.knobs, [TEST]))
    assert [line["name"] for line in by_alpha.data] == ["pool=mean", "published, pool=mean", "pool=max"]
    assert [line["y"] for line in by_alpha.data] == [[55.0, 58.0], [1.0, 2.0], [54.0, 57.0]]
    looks = [(line["line"]["color"], line["line"]["dash"], line["marker"]["symbol"]) for line in by_alpha.data[::2]]
    assert all(one != other for one, other in zip(*looks, strict=True))  # by colour, by dash and by mark
    assert by_pool.data[0]["name"] == "overlay_alpha=0"
    assert by_pool.layout["xaxis"]["ticktext"] == ["mean", "max"]
    assert by_pool.data[0]["x"] != by_pool.data[2]["x"]  # side by side


def test_many_other_settings_are_taken_together() -> None:
    space = {ALPHA: [0.0, 0.3], "pretrain.epochs": list(range(1, 11))}
    trials = [((alpha, epochs), 0, 50 + epochs) for alpha in space[ALPHA] for epochs in space["pretrain.epochs"]]
    sweep = make_sweep(space, trials)
    by_alpha, _ = knob_plots(sweep, sweep.knobs, [TEST])
    assert [trace["y"] for trace in by_alpha.data if trace.get("error_y")] == [[56.5, 56.5]]


def test_axes_follow_the_search() -> None:
    space = {
        LR: {"low": 0.001, "high": 1.0, "log": True, "step": None},
        POOL: ["mean", "max"],
        ALPHA: [0.001, 0.01, 0.1],
    }
    trials = [((0.002, "max", 0.1), 0, 50.0), ((0.7, "mean", 0.01), 0, 51.0), ((0.1, "mean", 0.001), 0, 53.0)]
    sweep = make_sweep(space, trials, rows=[POOL])
    lr, pool, alpha = (checked(plot) for plot in knob_plots(sweep, sweep.knobs, [TEST]))
    assert lr.layout["xaxis"]["type"] == "log"
    assert lr.data[-1]["mode"] == "markers"  # a sampled value has no neighbour to be joined with
    assert alpha.layout["xaxis"]["type"] == "log"  # two decades
    assert alpha.data[-1]["mode"] == "lines+markers"
    assert pool.layout["xaxis"]["ticktext"] == ["mean", "max"]  # in the file's order
    assert pool.data[-1]["x"] == [1.0, 0.0] or pool.data[-1]["x"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([128, 256, 512, 2048], True),
        ([0.05, 0.1, 0.2, 0.5], True),
        ([round(0.1 * step, 1) for step in range(1, 11)], False),  # evenly spaced
        ([0.2, 0.5, 0.8], False),
        ([10, 100], False),
        ([0, 1, 100], False),
    ],
)
def test_listed_numbers_are_on_the_axis_where_they_lie_apart(values: list[float], log: bool) -> None:
    sweep = make_sweep({ALPHA: values}, [((value,), 0, 50.0) for value in values])
    assert sweep.knobs[0].log == log


def test_units_and_intervals_are_said() -> None:
    assert plot_of(overlay()).layout["yaxis"]["title"]["text"] == "finetune top1 (test), %"
    assert has_intervals([plot_of(overlay())])
    single = make_sweep({ALPHA: [0.0, 0.3]}, [((alpha,), 0, 50 + alpha) for alpha in (0.0, 0.3)])
    assert not has_intervals([plot_of(single)])


def test_a_knob_that_was_never_varied_and_a_metric_that_nobody_measured_have_no_plot() -> None:
    sweep = make_sweep({ALPHA: [0.0]}, [((0.0,), seed, 50.0) for seed in (0, 1)])
    assert knob_plots(sweep, sweep.knobs, [TEST]) == []
    assert knob_plots(overlay(), overlay().knobs, ["knn/top1_test"]) == []


def test_names_are_shown_as_they_are() -> None:
    nasty = "<b>$x$</b><a href='javascript:alert(1)'>"
    sweep = make_sweep({POOL: [nasty, "max"]}, [((nasty,), 0, 50.0), (("max",), 0, 51.0)])
    shown = str(checked(plot_of(sweep)).data) + str(plot_of(sweep).layout)
    assert "<b>" not in shown
    assert "<a" not in shown
    assert "$" not in shown  # plotly would read it as TeX, and look for MathJax
    assert escaped("<b>$") == "&lt;b&gt;&#36;"


def test_many_points_are_thinned() -> None:
    trials = [((index / 1000,), 0, 50.0) for index in range(1000)]
    sweep = make_sweep({ALPHA: {"low": 0.0, "high": 1.0, "log": False, "step": None}}, trials)
    [trace] = plot_of(sweep).data
    assert len(trace["x"]) == MAX_POINTS
    assert (trace["x"][0], trace["x"][-1]) == (0.0, 0.999)


@pytest.mark.parametrize(("count", "wanted"), [(0, 5), (5, 5), (6, 5), (1000, 7)])
def test_thinned_keeps_both_ends(count: int, wanted: int) -> None:
    kept = thinned(count, wanted)
    assert len(kept) == min(count, wanted)
    assert not kept or (kept[0], kept[-1]) == (0, count - 1)


def test_no_two_series_look_the_same() -> None:
    looks = [style(index) for index in range(49)]
    assert len(set(looks)) == 49
    assert len({(look.dash, look.symbol) for look in looks[:7]}) == 7  # without colour too


def test_parallel_coordinates_put_every_value_at_its_height() -> None:
    space = {ALPHA: [0.0, 0.1, 0.3], LR: {"low": 0.01, "high": 1.0, "log": True, "step": None}, POOL: ["mean", "max"]}
    trials = [((0.0, 0.01, "mean"), 0, 40.0), ((0.3, 1.0, "max"), 0, 50.0), ((0.1, 0.1, "max"), 0, 42.5)]
    plot = parallel_coordinates(make_sweep(space, trials))
    assert plot is not None
    checked(plot)
    strands = [trace["y"][start : start + 4] for trace in plot.data[:-1] for start in range(0, len(trace["y"]), 5)]
    expected = [[0.0, 0.0, 0.0, 0.0], [round(1 / 3, 4), 0.5, 1.0, 0.25], [1.0, 1.0, 1.0, 1.0]]
    assert sorted(strands) == expected
    assert plot.data[-1]["y"][:4] == [1.0, 1.0, 1.0, 1.0]  # the best, on top
    assert plot.data[-1]["line"]["color"] == COLORS[1]
    assert plot.data[-2]["line"]["color"] == SCALE[-1]
    assert plot.layout["xaxis"]["ticktext"] == ["overlay_alpha", "lr", "pool", "finetune top1<br>(val), %"]


def test_parallel_coordinates_of_many_choices_say_how_many_they_show() -> None:
    space = {name: {"low": 0.0, "high": 1.0, "log": False, "step": None} for name in (ALPHA, LR)}
    trials = [((index / 1000, index / 1000), 0, float(index)) for index in range(1000)]
    plot = parallel_coordinates(make_sweep(space, trials))
    assert plot is not None
    assert plot.title == f"Parallel coordinates of {MAX_CHOICES} of 1000 choices"
    assert sum(trace["x"].count(0) for trace in plot.data) == MAX_CHOICES + 1  # the best twice


def test_one_knob_needs_no_parallel_coordinates() -> None:
    assert parallel_coordinates(overlay()) is None


def scored(count: int) -> Sweep:
    """Choices whose objective is the first knob, squared: the second has nothing to do with it."""
    space = {name: {"low": 0.001, "high": 1.0, "log": True, "step": None} for name in (LR, ALPHA)}
    values = [(10 ** (-3 * ((7 * index) % count) / count), 10 ** (-3 * index / count)) for index in range(count)]
    return make_sweep(space, [(each, 0, math.log10(each[0]) ** 2) for each in values])


def test_importance_finds_the_knob_that_matters() -> None:
    found = importance(scored(60))
    assert found.plot is not None
    shares = dict(zip(found.plot.data[0]["y"], found.plot.data[0]["x"], strict=True))
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert shares["lr"] > 0.9
    assert found.warning == ""
    checked(found.plot)


def test_importance_of_few_choices_is_a_hint_and_of_very_few_nothing() -> None:
    few = importance(scored(10))
    assert few.plot is not None
    assert few.warning.startswith("Only 10 choices")
    assert "fANOVA" in few.note
    assert importance(scored(3)).plot is None
    assert "3 choices" in importance(scored(3)).note
    assert "one searched knob" in importance(overlay()).note


def test_importance_takes_categories_and_constants() -> None:
    space = {POOL: ["mean", "[1, 2]"], ALPHA: [0.0, 0.1, 0.3]}
    trials = [((pool, alpha), 0, 50.0 + 5 * (pool == "mean")) for pool in space[POOL] for alpha in space[ALPHA]]
    found = importance(make_sweep(space, trials))
    assert found.plot is not None
    assert dict(zip(found.plot.data[0]["y"], found.plot.data[0]["x"], strict=True))["pool"] > 0.9
    constant = importance(make_sweep(space, [(values, seed, 1.0) for values, seed, _ in trials]))
    assert constant.plot is None
    assert "same for all" in constant.note
