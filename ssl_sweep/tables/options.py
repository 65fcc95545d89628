"""The options of the table of one sweep or several: from the specs' `table` sections, and what a user overrides."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from ssl_sweep.knobs.objective import Objective, parse_objectives
from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.data_sets import side_by_side, split_by_data
from ssl_sweep.tables.labels import label_meant, row_label
from ssl_sweep.tables.notes import on_missing
from ssl_sweep.tables.pivot import pivot, values_of
from ssl_sweep.tables.table import Table
from ssl_sweep.trialdir.states import TrialState

SWEEP = "sweep"


def options(specs: Mapping[str, Mapping[str, Any]], runs: pd.DataFrame, **overrides: Any) -> dict[str, Any]:
    """The arguments of `tables.ablation` for sweeps with these specs.

    The table of several sweeps has a row for each sweep and each setting of any of their row knobs. Where their options
    differ, the first sweep's apply. Where their objectives differ, the first column chooses each group's row. Settings
    that a resume has given some trials are row knobs as well: they never share a row with others.

    Args:
        specs: each spec's JSON data, by sweep.
        runs: of all these sweeps.
        overrides: options that replace those of the specs; None leaves an option as it is.
    """
    tables = {name: dict(spec.get("table") or {}) for name, spec in specs.items()}
    objectives = {objectives_of(spec) for spec in specs.values()}
    several = len(tables) > 1
    first = next(iter(tables.values()))
    given = {key: value for key, value in overrides.items() if value is not None}
    columns = dict.fromkeys(column for table in tables.values() for column in table.get("columns") or ())
    named = dict.fromkeys(row for table in tables.values() for row in table.get("rows") or ())
    own_rows = [*([SWEEP] if several else []), *named]
    made = {**first, "rows": own_rows, "columns": list(columns)}
    made["objective"] = tuple(map(str, objectives.pop())) if len(objectives) == 1 else ""
    rows = _with_settings(runs, given.get("rows", own_rows))
    if several or rows != own_rows:
        made |= _relabelled(tables, runs, rows)
    return made | given | {"rows": rows}


def _with_settings(runs: pd.DataFrame, rows: Sequence[str]) -> list[str]:
    given = [path for paths in runs.get("settings", ()) for path in paths]
    return list(dict.fromkeys([*rows, *given]))


def objectives_of(spec: Mapping[str, Any]) -> tuple[Objective, ...]:
    """The one or two objectives of a spec's JSON data; empty where it names none."""
    return parse_objectives((spec.get("search") or {}).get("objective"))


def with_undrawn(runs: pd.DataFrame, specs: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The runs, with an empty column for each knob of the specs' tables and choices that the searches never drew."""
    wanted = [path for spec in specs for path in (*_named_rows(spec), *_knobs_of_choices(spec))]
    return runs.assign(**dict.fromkeys(path for path in wanted if path not in runs.columns))


def _named_rows(spec: Mapping[str, Any]) -> Iterator[str]:
    table = spec.get("table") or {}
    yield from table.get("rows") or ()
    yield from () if isinstance(table.get("group_by"), Mapping) else table.get("group_by") or ()


def _knobs_of_choices(spec: Mapping[str, Any]) -> Iterator[str]:
    """The knobs of the choices of a searched section, which only some trials have."""
    for section, entry in ((spec.get("search") or {}).get("space") or {}).items():
        choices = entry.get("choices") if isinstance(entry, Mapping) else None
        for choice in choices or ():
            yield from (f"{section}.{knob}" for knob in choice if isinstance(choice, Mapping) and knob != "name")


def table_of(
    stores: Mapping[str, str],
    is_driven: Callable[[str], bool] = lambda name: True,
    complete: Mapping[str, Collection[str]] = MappingProxyType({}),
    **overrides: Any,
) -> Table:
    """The table of these sweeps.

    Args:
        stores: the tracking URI of each sweep.
        is_driven: see `with_interrupted`.
        complete: ids of trials with results, by sweep, as far as they are known; a note says which MLflow lacks.
        overrides: as of `options`.
    """
    from ssl_sweep.tracking.reader import runs, spec_of  # MLflow takes seconds to import

    specs = {name: spec_of(name, uri) for name, uri in stores.items()}
    by_store: dict[str, list[str]] = defaultdict(list)
    for name, uri in stores.items():
        by_store[uri].append(name)
    all_runs = pd.concat([runs(names, uri) for uri, names in by_store.items()], ignore_index=True)
    all_runs = with_undrawn(with_interrupted(all_runs, is_driven), specs.values())
    table = make_table(specs, all_runs, **overrides)
    return replace(table, notes=(*table.notes, *on_missing(all_runs, complete)))


def make_table(specs: Mapping[str, Mapping[str, Any]], runs: pd.DataFrame, **overrides: Any) -> Table:
    """The table of runs of these sweeps, by the arguments of `options`. Each data set has columns of its own.

    Sweeps of several data sets share the rows of equal settings, unless two of them are of the same set.
    """
    parts = split_by_data(runs)
    if len(parts) == 1:
        return ablation(runs, **options(specs, runs, **overrides))
    whole = options(specs, runs, **overrides)
    names = {label: list(dict.fromkeys(own[SWEEP])) for label, own in parts.items()}
    rows = whole["rows"]
    if overrides.get("rows") is None and max(map(len, names.values())) == 1:
        rows = [row for row in rows if row != SWEEP]
    shared = {**overrides, "rows": rows, "columns": whole["columns"]}
    tables = {
        label: ablation(own, **options({name: specs[name] for name in names[label]}, own, **shared))
        for label, own in parts.items()
    }
    order = pivot(runs, rows, (), whole["columns"], None).trials
    return side_by_side(tables, list(order))


def with_interrupted(runs: pd.DataFrame, is_driven: Callable[[str], bool]) -> pd.DataFrame:
    """The runs with the state INTERRUPTED for trials that MLflow has as running, and whose sweep no driver runs.

    is_driven: of a sweep's name; called only for sweeps with running trials.
    """
    running = runs["state"] == TrialState.RUNNING
    undriven = [name for name in runs.loc[running, SWEEP].unique() if not is_driven(name)]
    return runs.assign(state=runs["state"].mask(running & runs[SWEEP].isin(undriven), TrialState.INTERRUPTED))


def _relabelled(tables: Mapping[str, Mapping[str, Any]], runs: pd.DataFrame, rows: Sequence[str]) -> dict[str, Any]:
    """The sweeps' options about rows with the labels of this table's rows; a label without a row here is kept."""
    homes = _homes(tables, runs, rows)

    def here(sweep: str, label: Any) -> list[Any]:
        own = label_meant(label, homes[sweep])
        return [label] if own is None else homes[sweep][own]

    published: dict[str, dict[str, float]] = defaultdict(dict)
    groups: dict[str, list[str]] = defaultdict(list)
    baselines = []
    for name, table in tables.items():
        for column, figures in (table.get("published") or {}).items():
            for label, figure in figures.items():
                published[column] |= dict.fromkeys(here(name, label), figure)
        if isinstance(table.get("group_by"), Mapping):
            for group, labels in table["group_by"].items():
                groups[group] += [row for label in labels for row in here(name, label)]
        if table.get("baseline") is not None:
            baselines += here(name, table["baseline"])
    first = next(iter(tables.values())).get("group_by") or ()
    return {
        "published": published,
        "baseline": baselines[0] if baselines else None,
        "group_by": groups if isinstance(first, Mapping) else first,
    }


def _homes(
    tables: Mapping[str, Mapping[str, Any]], runs: pd.DataFrame, rows: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """By sweep and its row, the rows of this table that hold its trials and no others."""
    own_labels = {name: _labels(runs, table.get("rows") or ()) for name, table in tables.items()}
    owners: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for index, (label, sweep) in enumerate(zip(_labels(runs, rows), runs[SWEEP], strict=True)):
        owners[label].add((sweep, own_labels[sweep][index]))
    homes: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in tables}
    for label, own in owners.items():
        if len(own) == 1:
            sweep, own_label = own.pop()
            homes[sweep][own_label].append(label)
    return homes


def _labels(runs: pd.DataFrame, rows: Sequence[str]) -> list[str]:
    """Each run's row, by its label."""
    values = zip(*(values_of(runs, row) for row in rows), strict=True)
    return list(map(row_label, values)) if rows else [""] * len(runs)
