"""Runs of several data sets: each set has columns of its own, since no figure compares across them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ssl_sweep.data.fingerprints import LABELLED, SOURCE
from ssl_sweep.tables.labels import SELECTED, Key, row_name
from ssl_sweep.tables.pivot import plain
from ssl_sweep.tables.table import Cell, Row, Table
from ssl_sweep.trialdir.states import TrialState

FINGERPRINT = "data_fingerprint"
CLASSES = "data.classes"
Identity = tuple[str, str, str]  # the source that is evaluated, its chosen classes, its fingerprint
EMPTY = Cell(mean=None, std=None, n=0)


def split_by_data(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of each data set, by a label for it, in order of appearance.

    A set is what evaluations see: `data.labelled` or else `data.source`, with its fingerprint. A run without results,
    which may have died before it logged its data, goes with the first set of its sweep.
    """
    identities = _identities(runs)
    complete = [state == TrialState.COMPLETE for state in runs["state"]]
    known = [each for each, has_results in zip(identities, complete, strict=True) if has_results]
    if len(set(known)) < 2:
        return {"": runs}
    sweeps = runs["sweep"].tolist()
    of_sweep: dict[str, Identity] = {}
    for sweep, each, has_results in zip(sweeps, identities, complete, strict=True):
        if has_results:
            of_sweep.setdefault(sweep, each)
    sets = dict.fromkeys(known)
    homes = [
        each if each in sets else of_sweep.get(sweep, known[0]) for sweep, each in zip(sweeps, identities, strict=True)
    ]
    labels = _labels(list(sets))
    return {labels[each]: runs[[home == each for home in homes]].reset_index(drop=True) for each in sets}


def side_by_side(tables: Mapping[str, Table], order: Sequence[Key]) -> Table:
    """The tables of several data sets as one, whose rows are in an order as far as it has them."""
    first = next(iter(tables.values()))
    places = {key: place for place, key in enumerate(order)}
    keys = list(dict.fromkeys(row.key for table in tables.values() for row in table.body))
    keys.sort(key=lambda key: places.get(key, len(places)))
    cells = {label: {row.key: row.cells for row in table.body} for label, table in tables.items()}
    body = [
        Row(key, tuple(c for label, t in tables.items() for c in cells[label].get(key, (EMPTY,) * len(t.columns))))
        for key in keys
    ]
    fronts = [table.front for table in tables.values() if table.front is not None]
    return replace(
        first,
        body=tuple(body),
        columns=tuple(name for table in tables.values() for name in table.columns),
        decimals=tuple(each for table in tables.values() for each in table.decimals),
        has_published=tuple(each for table in tables.values() for each in table.has_published),
        has_confirmed=tuple(each for table in tables.values() for each in table.has_confirmed),
        data=tuple(label for label, table in tables.items() for _ in table.columns),
        front=frozenset().union(*fronts) if fronts else None,
        selected=frozenset().union(*(table.selected for table in tables.values())),
        notes=tuple(_notes(tables)),
    )


def _notes(tables: Mapping[str, Table]) -> list[str]:
    """The notes of all tables once, those of one data set with its label."""
    head = f"{len(tables)} data sets with columns of their own: nothing is best, selected or tested across them"
    notes = [(label, note) for label, table in tables.items() for note in table.notes]
    times = Counter(note for _, note in notes)
    common = dict.fromkeys(note for _, note in notes if times[note] == len(tables))
    # a figure without a row in one set may have it in another
    own = [f"{label}: {n}" for label, n in notes if n not in common and not n.startswith("published, but no row")]
    rows = {label: [row_name(key, table.rows) for key in table.selected] for label, table in tables.items()}
    selected = [f"{SELECTED} of {label}: {', '.join(names)}" for label, names in rows.items() if names]
    return [head, *common, *selected, *own]


def _identities(runs: pd.DataFrame) -> list[Identity]:
    def column(name: str) -> list[Any]:
        return [plain(value) for value in runs[name]] if name in runs.columns else [None] * len(runs)

    found = []
    for source, labelled, classes, text in zip(*map(column, (SOURCE, LABELLED, CLASSES, FINGERPRINT)), strict=True):
        use = SOURCE if labelled is None else LABELLED
        found.append((str(labelled or source or ""), str(classes or ""), _own_print(str(text or ""), use)))
    return _completed(found, runs["sweep"].tolist())


def _own_print(text: str, use: str) -> str:
    """A use's identity in a fingerprint: `3f2a9c1b04de`, or one of `data.source 3f2a9c1b04de, transfer digits ...`."""
    parts = dict(part.rsplit(" ", 1) for part in text.split(", ") if " " in part)
    return parts.get(use, "") if parts else text


def _completed(found: Sequence[Identity], sweeps: Sequence[str]) -> list[Identity]:
    """Sweeps of earlier versions have no fingerprints: theirs is that of the only set of the same name."""
    prints: dict[tuple[str, str], set[str]] = defaultdict(set)
    have = {sweep for sweep, (*_, own) in zip(sweeps, found, strict=True) if own}
    for source, classes, own in found:
        prints[source, classes] |= {own} if own else set()
    return [
        (source, classes, next(iter(prints[source, classes])))
        if not own and sweep not in have and len(prints[source, classes]) == 1
        else (source, classes, own)
        for sweep, (source, classes, own) in zip(sweeps, found, strict=True)
    ]


def _labels(sets: Sequence[Identity]) -> dict[Identity, str]:
    """Short names that differ: the source without its folder, then its fingerprint, then a number."""
    labels = {each: _name(each[0]) for each in sets}
    alike = Counter(labels.values())
    labels = {e: f"{name} {e[2] or 'before it changed'}" if alike[name] > 1 else name for e, name in labels.items()}
    alike = Counter(labels.values())
    return {
        each: f"{name} {place}" if alike[name] > 1 else name for place, (each, name) in enumerate(labels.items(), 1)
    }


def _name(source: str) -> str:
    """`imagefolder:/data/flowers` -> `imagefolder:flowers`"""
    kind, colon, argument = source.partition(":")
    return f"{kind}{colon}{argument.rstrip('/').rpartition('/')[2]}"
