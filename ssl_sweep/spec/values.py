"""Reads the values of a searched knob and converts them to the knob's type."""

import json
from typing import Any

from ssl_sweep.knobs.problems import ErrorCollector, Finding, validation_error
from ssl_sweep.spec.domains import Categorical, Range
from ssl_sweep.spec.sections import Part


def read_values(entry: Any, part: Part, knob: str) -> Categorical | Range:
    """Read a list of choices or a range. Raises ValidationError."""
    if isinstance(entry, list):
        return _choices(entry, part, knob)
    if isinstance(entry, dict):
        return _range(entry, part, knob)
    message = "must be a list of choices or a range"
    raise validation_error(Finding((), entry, message, "write `[0.1, 0.2]` or `{low: 0.1, high: 0.5}`"))


def _choices(values: list[Any], part: Part, knob: str) -> Categorical:
    errors = ErrorCollector()
    typed: list[Any] = []
    for index, value in enumerate(values):
        reads = len(errors.findings)
        read = errors.run((index,), part.typed, knob, value)
        if len(errors.findings) == reads and json.dumps(read) in map(json.dumps, typed):
            errors.add((index,), value, "is there twice", "name each choice once")
        typed.append(read)
    if not values:
        errors.add((), values, "has no choices", "name at least one")
    errors.raise_if_any()
    return Categorical(values=tuple(typed))


def _range(entry: dict[str, Any], part: Part, knob: str) -> Range:
    errors, read = ErrorCollector(), dict(entry)
    for end in ("low", "high"):
        if end in entry:
            typed = errors.run((end,), part.typed, knob, entry[end])
            read[end] = entry[end] if typed is None else typed
    made = errors.run((), Range.model_validate, read)
    errors.raise_if_any()
    assert made is not None  # noqa: S101 - None only after an error
    return made
