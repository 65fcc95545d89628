"""Enumerates a search's choices: all of a grid, and those of any search that show whether the knobs fit together."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, islice, product
from typing import Any

from ssl_sweep.knobs.problems import Loc
from ssl_sweep.spec.domains import Branches, Categorical, Range
from ssl_sweep.spec.search import Search
from ssl_sweep.spec.sections import CASE, CONSTRUCTED, NAMED, Settings

# the sections that decide whether the objects of one can be built, the most telling one first
DECIDERS = {
    "views": ("views", "method"),
    "pretrain": ("pretrain",),
    "encoder": ("encoder", "method"),
    "data": ("data", "encoder"),
}
NOT_DATA = tuple(section for section in CONSTRUCTED if section != "data")
MAX_LISTED = 10_000  # choices that are compared with those tried
MAX_COMBINED = 500  # combinations a section; a spec is read each time somebody looks at its sweep


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


def others_than(search: Search, choice: Mapping[str, Any]) -> Iterator[Settings]:
    """Yield the other choices of a search whose knobs can all be listed; of another, those that differ in one list."""
    count = num_choices(search)
    if count is not None and count <= MAX_LISTED:
        yield from all_choices(search)
        return
    for path, values in searched(search).items():
        if isinstance(values, Categorical) and path not in search.branches:
            yield from ({**choice, path: value} for value in values.values)


def to_construct(search: Search) -> Iterator[tuple[Settings, Settings, tuple[str, ...]]]:
    """Yield the choices to construct before a sweep runs: each choice, its part for messages, and the sections.

    For a grid, every choice. For another search, every combination of cases, methods and encoders, and for a section
    that is searched by lists only, every combination of these; all other knobs have their first value. `data` is one of
    these sections where it is searched.
    """
    if search.sampler == "grid":
        yield from ((choice, choice, CONSTRUCTED) for choice in all_choices(search))
        return
    knobs = searched(search)
    for section in CONSTRUCTED if varies_data(search) else NOT_DATA:
        own = [path for path in knobs if (path in NAMED if section in NAMED else path.startswith(f"{section}."))]
        # a subset's numbers do not decide whether its knobs fit together
        if section != "data" and any(isinstance(knobs[path], Range) for path in own):
            continue
        own += [CASE] * (CASE in knobs)
        for choice in islice(combined(search, own), MAX_COMBINED):
            yield choice, {path: choice[path] for path in own}, (section,)


def varies_data(search: Search) -> bool:
    """Whether the search or a case gives the part of the images that is pretrained on."""
    return any(path.startswith("data.") for path in (*search.space, *chain(*search.cases.values())))


def place_of(search: Search, choice: Mapping[str, Any], section: str) -> Loc:
    """The key that decides what a choice has in a section: a section of the space, a key of its case, or the section.

    A searched section stands for its knobs: several of them decide together.
    """
    case = search.cases.get(choice.get(CASE, ""), {})
    for head in DECIDERS[section]:
        if any(_head(path) == head for path in search.space):
            return ("search", "space", head)
        if found := next((path for path in case if _head(path) == head), None):
            return ("search", "cases", choice[CASE], found)
    return (section,)


def deciding(choice: Mapping[str, Any], section: str, place: Loc) -> Settings:
    """The searched part of a choice that decides what it has in a section; its case, unless `place` names it."""
    heads = DECIDERS[section] if place[:2] == ("search", "cases") else (*DECIDERS[section], CASE)
    return {path: value for path, value in choice.items() if _head(path) in heads} if place != (section,) else {}


def combined(search: Search, paths: Collection[str]) -> Iterator[Settings]:
    """Yield a choice for every combination of the values of some searched knobs; the others have their first value."""
    listed = {path: _firsts(path, values, search) for path, values in searched(search).items()}
    return map(_joined, product(*(settings if path in paths else settings[:1] for path, settings in listed.items())))


def extremes(search: Search, decides: Callable[[str], bool]) -> Iterator[Settings]:
    """Yield a choice for every combination of listed values and ends of ranges of the searched knobs that decide.

    A section that is searched decides with all its knobs. The other knobs have their first value.
    """
    parts = [
        _settings(path, values, search, _ends) if decides(path) else _firsts(path, values, search)[:1]
        for path, values in searched(search).items()
    ]
    return map(_joined, product(*parts))


def num_choices(search: Search) -> int | None:
    """The number of different choices of a search; None where a range has no step."""
    sizes = [len(search.cases) or 1, *map(num_settings, search.space.values())]
    return None if None in sizes else math.prod(size or 0 for size in sizes)


def num_settings(values: Categorical | Range | Branches) -> int | None:
    """The number of settings of a searched knob, or of a section with its knobs; None for a range without a step."""
    if not isinstance(values, Branches):
        return len(values.listed()) or None
    sizes = [[num_settings(knob) for knob in branch.space.values()] for branch in values.choices]
    if any(None in branch for branch in sizes):
        return None
    return sum(math.prod(size or 0 for size in branch) for branch in sizes)


def _settings(
    path: str,
    values: Categorical | Range,
    search: Search,
    listed: Callable[[Categorical | Range], Sequence[Any]] = lambda values: values.listed(),
) -> list[Settings]:
    """Every value of a knob, as `listed`; for a section, every branch with every value of its own knobs."""
    if path not in search.branches:
        return [{path: value} for value in listed(values)]
    settings = []
    for branch in search.branches[path].choices:
        combinations = product(*(listed(knob_values) for knob_values in branch.space.values()))
        paths = [path, *(f"{path}.{knob}" for knob in branch.space)]
        settings += [dict(zip(paths, (branch.name, *own), strict=True)) for own in combinations]
    return settings


def _firsts(path: str, values: Categorical | Range, search: Search) -> list[Settings]:
    """Every value of a list; every branch of a section, with its knobs' first values; the first value of a range."""
    if path not in search.branches:
        return [{path: value} for value in ((values.low,) if isinstance(values, Range) else values.values)]
    return [
        _joined(
            [{path: branch.name}, *(_firsts(f"{path}.{knob}", own, search)[0] for knob, own in branch.space.items())]
        )
        for branch in search.branches[path].choices
    ]


def _ends(values: Categorical | Range) -> Sequence[Any]:
    return (values.low, values.high) if isinstance(values, Range) else values.values


def _head(path: str) -> str:
    return path.partition(".")[0]


def _joined(parts: Sequence[Mapping[str, Any]]) -> Settings:
    return {path: value for part in parts for path, value in part.items()}
