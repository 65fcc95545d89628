"""Plots of all knobs together: parallel coordinates, and the knobs' importance."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssl_sweep.report.choices import Choice, Knob
from ssl_sweep.report.figures import COLORS, INK, SCALE, Plot, Trace, escaped, number_text, shortened, thinned
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.tables.labels import display_name, name_with_unit, value_text

MAX_CHOICES = 300  # in parallel coordinates: half of them the best, half evenly from the others
ENOUGH, TOO_FEW = 20, 4  # choices, below which importance is uncertain, or not computed
MAX_LEAVES = 200  # choices for fANOVA's trees, whose time grows with the square
MAX_TICKS = 8
PER_AXIS = 72  # CSS pixels of width for an axis, at least
CROWD = 15  # lines of a colour; if there are more, they are drawn fainter
LABEL = 18  # characters
NAME, LINE = 40, 16  # characters of an axis' name, and of one line of it


@dataclass(frozen=True)
class Importance:
    """A plot if there are enough choices, a note that explains it, and a warning or none."""

    plot: Plot | None
    note: str
    warning: str = ""


def parallel_coordinates(sweep: Sweep) -> Plot | None:
    """A line for each choice across an axis for each knob and the objective; None below two knobs or choices."""
    knobs = [knob for knob in sweep.knobs if len(knob.values) > 1]
    scored = [choice for choice in sweep.choices if choice.objective is not None]
    if len(knobs) < 2 or len(scored) < 2:
        return None
    shown = _some(scored)
    axes = [_Axis.of_knob(knob) for knob in knobs] + [_Axis.of_objective(sweep, scored)]
    count = len(SCALE)
    data: list[Trace] = []
    for step in range(count):  # the best are drawn last, on top
        position = count - 1 - step
        part = [choice for index, choice in enumerate(shown) if index * count // len(shown) == position]
        data += [_choice_lines(part, axes, SCALE[step], 1.2)] if part else []
    data.append(_choice_lines(shown[:1], axes, COLORS[1], 3.5))
    title = f"{len(shown)} of {len(scored)} choices" if len(shown) < len(scored) else f"{len(scored)} choices"
    best = f"the best, {shown[0].label}, has {display_name(sweep.metric)} {number_text(shown[0].objective)}"
    return Plot(
        f"Parallel coordinates of {title}", f"A line for each choice; {best}", data, _layout(axes), PER_AXIS * len(axes)
    )


def importance(sweep: Sweep) -> Importance:
    """The knobs' importances by fANOVA."""
    knobs = [knob for knob in sweep.knobs if len(knob.values) > 1]
    scored = [choice for choice in sweep.choices if choice.objective is not None]
    if len(knobs) < 2:
        return Importance(None, "With one searched knob there is nothing to compare.")
    if len(scored) < TOO_FEW:
        return Importance(None, f"{len(scored)} choices with an objective are too few to compare knobs.")
    from ssl_sweep.ledger.importance import importances  # imports Optuna and torch, so only when needed

    by_number = sorted(scored, key=lambda choice: choice.number)
    used = [by_number[i] for i in thinned(len(scored), MAX_LEAVES)]
    objective = [choice.objective for choice in used if choice.objective is not None]
    of_all = [{knob.path: choice.knobs[knob.path] for knob in knobs} for choice in used]  # fANOVA takes no others
    shares = importances(of_all, objective, [knob.path for knob in knobs if knob.log])
    if not shares:
        return Importance(None, "The objective is the same for all choices: there is no difference to explain.")
    few = f"Only {len(scored)} choices: these shares are uncertain." if len(scored) < ENOUGH else ""
    some = f" of {len(used)} of the choices" if len(used) < len(scored) else ""
    note = f"Share of the objective's variance{some} that a knob explains by itself, by fANOVA (Hutter et al. 2014)."
    names = {knob.path: knob.name for knob in knobs}
    listed = [(names[path], share) for path, share in sorted(shares.items(), key=lambda item: item[1])]
    alt = "Importance of knobs: " + ", ".join(f"{name} {share:.0%}" for name, share in reversed(listed))
    bars: Trace = {
        "type": "bar",
        "orientation": "h",
        "y": [escaped(name) for name, _ in listed],
        "x": [round(share, 4) for _, share in listed],
        "text": [f"{share:.0%}" for _, share in listed],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
        "marker": {"color": COLORS[0]},
    }
    xaxis = {"tickformat": ".0%", "range": [0, 1.15 * max(share for _, share in listed) or 1], "rangemode": "tozero"}
    layout = {"xaxis": xaxis, "yaxis": {"type": "category"}, "showlegend": False, "height": 90 + 34 * len(listed)}
    return Importance(Plot(f"Importance for {display_name(sweep.metric)}", alt, [bars], layout), note, few)


@dataclass(frozen=True)
class _Axis:
    """A vertical axis: where a choice's value lies on it, from 0 to 1, and its ticks."""

    name: str
    knob: str | None  # None: the objective
    low: float
    high: float
    log: bool
    values: tuple[Any, ...]  # of a knob whose values are no numbers
    listed: tuple[float, ...]  # numbers with a tick each

    @classmethod
    def of_knob(cls, knob: Knob) -> "_Axis":
        if not knob.numeric:
            return cls(knob.name, knob.path, 0, len(knob.values) - 1, False, knob.values, ())
        listed = knob.values if not knob.sampled and len(knob.values) <= MAX_TICKS else ()
        return cls(knob.name, knob.path, knob.values[0], knob.values[-1], knob.log, (), listed)

    @classmethod
    def of_objective(cls, sweep: Sweep, choices: Sequence[Choice]) -> "_Axis":
        values = [choice.objective for choice in choices if choice.objective is not None]
        return cls(name_with_unit(sweep.metric), None, min(values), max(values), False, (), ())

    def height(self, value: Any) -> float:
        from math import log

        if self.values:
            value = self.values.index(value)
        scaled, low, high = (log(x) if self.log else x for x in (value, self.low, self.high))
        return (scaled - low) / (high - low) if high > low else 0.5

    def value(self, choice: Choice) -> Any:
        return choice.objective if self.knob is None else choice.knobs[self.knob]

    def ticks(self) -> list[tuple[float, str]]:
        if self.values:
            ticked = [self.values[i] for i in thinned(len(self.values), MAX_TICKS)]
            return [(self.height(value), shortened(value_text(value), LABEL)) for value in ticked]
        middle = (self.low * self.high) ** 0.5 if self.log else (self.low + self.high) / 2
        return [(self.height(value), number_text(value)) for value in self.listed or (self.low, middle, self.high)]


def _some(scored: Sequence[Choice]) -> list[Choice]:
    half = MAX_CHOICES // 2
    if len(scored) <= MAX_CHOICES:
        return list(scored)
    rest = scored[half:]
    return [*scored[:half], *(rest[i] for i in thinned(len(rest), MAX_CHOICES - half))]


def _choice_lines(choices: Sequence[Choice], axes: Sequence[_Axis], color: str, width: float) -> Trace:
    """The lines of choices as one trace, with gaps between them."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for choice in choices:
        x += [*range(len(axes)), None]
        y += [*(round(axis.height(axis.value(choice)), 4) for axis in axes), None]
        texts += [escaped(f"{choice.label}: {number_text(choice.objective)}")] * (len(axes) + 1)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": y,
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": color, "width": width},
        "marker": {"color": color, "size": 4},
        "opacity": 1 if len(choices) < CROWD else 0.6,
    }


def _lines(name: str) -> list[str]:
    """A name in lines; a long one is broken after an underscore or at a space."""
    lines = [""]
    for word in re.findall(r"[^_ ]*[_ ]*", name):
        if lines[-1] and len(lines[-1] + word.rstrip()) > LINE:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def _layout(axes: Sequence[_Axis]) -> dict[str, Any]:
    def label(place: int, height: float, text: str) -> dict[str, Any]:
        return {
            "x": place, "y": height, "text": escaped(text), "showarrow": False, "font": {"size": 11, "color": INK},
            "xanchor": "left", "xshift": 6, "bgcolor": "--paper", "opacity": 0.9,
        }  # fmt: skip

    lines = [
        {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": {"color": INK, "width": 1}}
        for place in range(len(axes))
    ]
    names = ["<br>".join(map(escaped, _lines(shortened(axis.name, NAME)))) for axis in axes]
    across = {"tickvals": list(range(len(axes))), "ticktext": names, "range": [-0.05, len(axes) - 0.95], "side": "top"}
    return {
        "xaxis": across
        | {"ticklabeloverflow": "allow", "showgrid": False, "zeroline": False, "showline": False, "ticks": ""},
        "yaxis": {"visible": False, "range": [-0.06, 1.06]},
        "margin": {"l": 50, "r": 56, "t": 34, "b": 10},
        "showlegend": False,
        "shapes": lines,
        "annotations": [label(place, height, text) for place, axis in enumerate(axes) for height, text in axis.ticks()],
        "height": 360,
    }
