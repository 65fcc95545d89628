"""What all plots share: plotly's JSON, number formats, and line styles that differ without colour too."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Trace = dict[str, Any]

# names of the style sheet's colours; the page's script replaces them by the light or dark values
INK = "--ink"
COLORS = tuple(f"--series-{index}" for index in range(7))
SCALE = tuple(f"--scale-{step}" for step in range(7))  # from faint to strong
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px 2px 1px 2px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
DIGITS = 5  # significant digits of plotted numbers


class Style(NamedTuple):
    """The look of a series."""

    color: str
    dash: str
    symbol: str


@dataclass(frozen=True)
class Plot:
    """A plot: its title, its content in words, and plotly's `data` and `layout`.

    min_width: in CSS pixels, of a plot over the page's whole width, which scrolls on narrower screens.
    """

    title: str
    alt: str
    data: Sequence[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    min_width: int = 0


def style(index: int) -> Style:
    """The look of a series by its index; the first 49 all differ."""
    lap = index // len(COLORS)
    turned = (index + lap) % len(COLORS)
    return Style(COLORS[index % len(COLORS)], DASHES[turned], SYMBOLS[turned])


def escaped(text: object) -> str:
    """A text with HTML escaped, some of which plotly interprets."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")  # text between two dollars would be TeX


def shortened(text: str, max_chars: int = 40) -> str:
    """A text cut to `max_chars`, with an ellipsis if it was longer."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def numbers(values: Iterable[float | None]) -> list[float | None]:
    """Rounded numbers for JSON; None for those that are not finite."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}") for value in values]


def number_text(value: float | None) -> str:
    """A number as text, with four significant digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def thinned(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, evenly spaced, with the first and the last."""
    if count <= wanted:
        return list(range(count))
    return sorted({round(index * (count - 1) / (wanted - 1)) for index in range(wanted)})
