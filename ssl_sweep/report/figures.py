"""What the page's plots share: figures as plotly's JSON, and styles that tell series apart without colour too."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Trace = dict[str, Any]

# names of the style sheet's colours, light or dark: the page's script puts them in
INK = "--ink"
COLORS = tuple(f"--series-{index}" for index in range(7))
SCALE = tuple(f"--scale-{step}" for step in range(7))  # from what is hardly told from the paper to what stands out
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px 2px 1px 2px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
DIGITS = 5  # significant, of what is plotted


class Style(NamedTuple):
    """How a series looks."""

    color: str
    dash: str
    symbol: str


@dataclass(frozen=True)
class Plot:
    """A figure with its title, its content in words, and plotly's `data` and `layout`.

    min_width: CSS pixels, of a plot that takes the page's whole width, and is scrolled where that is less.
    """

    title: str
    alt: str
    data: Sequence[Trace]
    layout: dict[str, Any] = field(default_factory=dict)
    min_width: int = 0


def style(index: int) -> Style:
    """The look of the series of this number; no two of the first 49 are the same."""
    lap = index // len(COLORS)
    turned = (index + lap) % len(COLORS)
    return Style(COLORS[index % len(COLORS)], DASHES[turned], SYMBOLS[turned])


def escaped(text: object) -> str:
    """A text that plotly shows as it is: it reads some HTML."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")  # two dollars would be TeX


def shortened(text: str, wanted: int = 40) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= wanted else f"{text[: wanted - 1]}…"


def numbers(values: Iterable[float | None]) -> list[float | None]:
    """Numbers for JSON, rounded; None where they are not finite."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}") for value in values]


def figure(value: float | None) -> str:
    """A number in a sentence."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def thinned(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` positions, evenly spread, the first and the last among them."""
    if count <= wanted:
        return list(range(count))
    return sorted({round(index * (count - 1) / (wanted - 1)) for index in range(wanted)})
