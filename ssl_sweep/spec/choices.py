"""The choices that a search is made of: all of a grid, and those of another search that show what does not fit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

from ssl_sweep.spec.domains import Branches, Categorical, Range
from ssl_sweep.spec.search import Search
from ssl_sweep.spec.sections import CASE, CONSTRUCTED, NAMED, Settings

MAX_COMBINED = 500  # of a section; a spec is read whenever its sweep is looked at


def searched(search: Search) -> dict[str, Categorical | Range]:
    """The searched knobs that every choice has, see `spec.space`."""
    cases = {CASE: Categorical(values=tuple(search.cases))} if search.cases else {}
    named = {
        path: Categorical(values=values.names) if isinstance(values, Branches) else values
        for path, values in search.space.items()
    }
    return {**cases, **named}


def all_choices(search: Search) -> list[Settings]:
    """Every choice of a search whose knobs can all be listed; the first knob changes slowest."""
    parts = [_settings(path, values, search) for path, values in searched(search).items()]
    return [_joined(choice) for choice in product(*parts)]


def to_construct(search: Search) -> Iterator[tuple[Settings, Settings, tuple[str, ...]]]:
    """Choices to be constructed before anything runs: each, what of it is to be told, and the sections to construct.

    Of a grid every choice. Of another search every combination of cases, methods and encoders, and of the lists of a
    section where all that is searched are lists: what is not combined has its first value there.
    """
    if search.sampler == "grid":
        yield from ((choice, choice, CONSTRUCTED) for choice in all_choices(search))
        return
    knobs = searched(search)
    for section in CONSTRUCTED:
        own = [path for path in knobs if (path in NAMED if section in NAMED else path.startswith(f"{section}."))]
        if any(isinstance(knobs[path], Range) for path in own):
            continue
        own += [CASE] * (CASE in knobs)
        listed = {path: _firsts(path, values, search) for path, values in knobs.items()}
        parts = [settings if path in own else settings[:1] for path, settings in listed.items()]
        for choice in islice(map(_joined, product(*parts)), MAX_COMBINED):
            yield choice, {path: choice[path] for path in own}, (section,)


def num_settings(values: Categorical | Range | Branches) -> int | None:
    """How many settings a searched knob, or section with its knobs, has; None where a range is without a step."""
    if not isinstance(values, Branches):
        return len(values.listed()) or None
    sizes = [[num_settings(each) for each in branch.space.values()] for branch in values.choices]
    if any(None in each for each in sizes):
        return None
    return sum(math.prod(size or 0 for size in each) for each in sizes)


def _settings(path: str, values: Categorical | Range, search: Search) -> list[Settings]:
    """Every value of a knob; of a section every branch with every value of its own knobs."""
    if path not in search.branches:
        return [{path: value} for value in values.listed()]
    found = []
    for branch in search.branches[path].choices:
        listed = product(*(each.listed() for each in branch.space.values()))
        paths = [path, *(f"{path}.{knob}" for knob in branch.space)]
        found += [dict(zip(paths, (branch.name, *own), strict=True)) for own in listed]
    return found


def _firsts(path: str, values: Categorical | Range, search: Search) -> list[Settings]:
    """Every value of a list, or of a section with the first value of each knob of its own; the first of a range."""
    if path not in search.branches:
        return [{path: value} for value in ((values.low,) if isinstance(values, Range) else values.values)]
    return [
        _joined(
            [{path: branch.name}, *(_firsts(f"{path}.{knob}", own, search)[0] for knob, own in branch.space.items())]
        )
        for branch in search.branches[path].choices
    ]


def _joined(parts: Sequence[Mapping[str, Any]]) -> Settings:
    return {path: value for part in parts for path, value in part.items()}
