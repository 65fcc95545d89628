"""The values that a searched knob can take, as the knob's type reads them."""

import json
from typing import Any

from ssl_sweep.knobs.problems import Collector, Finding, refusal
from ssl_sweep.spec.domains import Choices, Range
from ssl_sweep.spec.sections import Part


def read_values(entry: Any, part: Part, knob: str) -> Choices | Range:
    """A list of choices or a range. Raises a refusal."""
    if isinstance(entry, list):
        return _choices(entry, part, knob)
    if isinstance(entry, dict):
        return _range(entry, part, knob)
    message = "must be a list of choices or a range"
    raise refusal([Finding((), entry, message, "write `[0.1, 0.2]` or `{low: 0.1, high: 0.5}`")])


def _choices(values: list[Any], part: Part, knob: str) -> Choices:
    found = Collector()
    typed: list[Any] = []
    for index, value in enumerate(values):
        reads = len(found.findings)
        read = found.run((index,), part.typed, knob, value)
        if len(found.findings) == reads and json.dumps(read) in map(json.dumps, typed):
            found.add((index,), value, "is there twice", "name each choice once")
        typed.append(read)
    if not values:
        found.add((), values, "has no choices", "name at least one")
    found.done()
    return Choices(values=tuple(typed))


def _range(entry: dict[str, Any], part: Part, knob: str) -> Range:
    found, read = Collector(), dict(entry)
    for end in ("low", "high"):
        if end in entry:
            typed = found.run((end,), part.typed, knob, entry[end])
            read[end] = entry[end] if typed is None else typed
    made = found.run((), Range.model_validate, read)
    found.done()
    assert made is not None  # noqa: S101 - it is None only where something was found
    return made
