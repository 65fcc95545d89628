"""Runs -> the rows of a table: each setting of its knobs, or the best one of each group on validation."""

import difflib
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ssl_sweep.errors import UserError
from ssl_sweep.knobs.best import Scores, best_first
from ssl_sweep.knobs.objective import Objective
from ssl_sweep.tables.labels import SPLITS, Key, label_meant, row_label, value_text
from ssl_sweep.tables.pareto import on_front
from ssl_sweep.trialdir.states import TrialState

LOWER_IS_BETTER = ("loss", "error", "seconds", "alignment", "uniformity", "cost/")
GROUP = "group"  # heads the column of groups that the table names itself
Groups = Sequence[str] | Mapping[str, Sequence[Any]]
Trials = dict[Key, list[int]]  # the positions of each row's COMPLETE trials


class TableError(UserError, ValueError):
    """No table can be made of these runs."""


@dataclass(frozen=True)
class Pivot:
    """The rows that a table shows.

    Args:
        names: of the parts of a row's key: parameters, or `group`.
        trials: the positions of each row's COMPLETE trials of the search, in the order of the table.
        fresh: those of its COMPLETE trials with fresh seeds, which confirm the best choices.
        confirmed: the part of `trials` whose choices have trials with fresh seeds.
        labels: the labels that name a row and no other, its group's first.
        known: the labels of all rows, shown or not.
        chosen_by: the metric that chose each group's row; None where every row is shown.
        lowest: whether the lowest value of it is the best.
        chosen_from: the number of rows that each row was chosen from.
        chosen_fresh: how many of them have fresh seeds, by which the row was chosen then.
        judge: the metric on validation that tells the best of the rows shown; None if there is none.
        selected: that row.
    """

    names: tuple[str, ...]
    trials: Trials
    fresh: Trials
    confirmed: Trials
    labels: Mapping[Key, tuple[str, ...]]
    known: frozenset[str]
    chosen_by: str | None = None
    lowest: bool = False
    chosen_from: Mapping[Key, int] = field(default_factory=dict)
    chosen_fresh: Mapping[Key, int] = field(default_factory=dict)
    judge: str | None = None
    selected: Key | None = None

    def is_chosen(self, key: Key) -> bool:
        """Whether a row was chosen from several."""
        return self.chosen_from.get(key, 1) > 1


def pivot(
    runs: pd.DataFrame, rows: Sequence[str], group_by: Groups, columns: Sequence[str], objective: Objective | None
) -> Pivot:
    """The rows of a table, by the arguments of `tables.ablation`. Raises TableError."""
    metric = _validated(columns[0] if objective is None else objective.metric) if columns or objective else ""
    lowest = lower_is_better(metric, () if objective is None else (objective,))
    if group_by:
        made = _chosen(runs, rows, group_by, metric, lowest)
    else:
        trials = _trials(runs, rows)
        labels = {key: (row_label(key),) for key in trials}
        parts = _parted(runs, trials)
        made = Pivot(tuple(rows), *parts, _unambiguous(labels), frozenset(map(row_label, trials)), lowest=lowest)
    if objective is None and not metric.endswith("_val"):
        return made
    order = best_first(scores_of(runs, metric, made.trials, made.fresh), -1 if lowest else 1)
    return replace(made, judge=metric, selected=order[0]) if len(order) > 1 else made


def _chosen(runs: pd.DataFrame, rows: Sequence[str], group_by: Groups, metric: str, lowest: bool) -> Pivot:
    """The best row of each group by a metric, as `knobs.best` has it; an empty row where none has a value."""
    names, width, trials = _grouped(runs, rows, group_by)
    places = [names.index(row if row in names else f"{row}.name") for row in rows]
    row_labels = {key: row_label([key[place] for place in places]) for key in trials}
    searched, fresh, _ = _parted(runs, trials)
    scores = scores_of(runs, metric, searched, fresh)
    members: dict[Key, list[Key]] = defaultdict(list)
    for key in trials:
        members[Key(key[:width])].append(key)
    shown: Trials = {}
    shown_labels: dict[Key, tuple[str, ...]] = {}
    chosen_from: dict[Key, int] = {}
    chosen_fresh: dict[Key, int] = {}
    for group, keys in members.items():
        order = best_first({key: scores[key] for key in keys}, -1 if lowest else 1)
        nothing = Key((*group, *[None] * (len(names) - width)))
        best = keys[0] if len(keys) == 1 else order[0] if order else nothing
        shown[best] = trials.get(best, [])
        shown_labels[best] = (row_label(group), *([row_labels[best]] if best in row_labels else []))
        chosen_from[best] = len(keys)
        chosen_fresh[best] = sum(bool(fresh[key]) for key in keys)
    known = frozenset(row_labels.values())
    labels = _unambiguous(shown_labels)
    return Pivot(names, *_parted(runs, shown), labels, known, metric, lowest, chosen_from, chosen_fresh)


def is_fresh(runs: pd.DataFrame) -> pd.Series:
    """For each run, whether it is a trial with a fresh seed, which confirms a choice."""
    confirms = runs["confirms"] if "confirms" in runs.columns else pd.Series(False, index=runs.index)
    return confirms.astype(bool)


def _parted(runs: pd.DataFrame, trials: Trials) -> tuple[Trials, Trials, Trials]:
    """`Pivot.trials`, `Pivot.fresh` and `Pivot.confirmed` of each row's COMPLETE trials."""
    is_fresh_run, choices = is_fresh(runs).tolist(), list(zip(runs["sweep"], runs["choice"], strict=True))
    fresh = {key: [i for i in positions if is_fresh_run[i]] for key, positions in trials.items()}
    searched = {key: [i for i in positions if not is_fresh_run[i]] for key, positions in trials.items()}
    with_fresh = {choices[i] for positions in fresh.values() for i in positions}
    confirmed = {key: [i for i in positions if choices[i] in with_fresh] for key, positions in searched.items()}
    return searched, fresh, confirmed


def _means(runs: pd.DataFrame, metric: str, trials: Trials) -> dict[Key, float]:
    return {key: statistics.fmean(seeds.values()) for key, seeds in by_seed(runs, metric, trials).items() if seeds}


def scores_of(runs: pd.DataFrame, metric: str, searched: Trials, fresh: Trials) -> dict[Key, Scores]:
    """Each row's values of a metric. A row wants the seeds of its sweep, or as many as the sweep with the most."""
    values, again = by_seed(runs, metric, searched), by_seed(runs, metric, fresh)
    sweeps, seeds = runs["sweep"].tolist(), defaultdict(set)
    for sweep, seed, kind in zip(sweeps, runs["seed"].tolist(), is_fresh(runs).tolist(), strict=True):
        seeds[sweep, kind].add(seed)

    def missing(key: Key, kind: bool, found: Mapping[Any, float]) -> int:
        own = {sweeps[i] for i in (fresh if kind else searched)[key]}
        return max((len(seeds[sweep, kind]) for sweep in own), default=0) - len(found)

    return {
        key: Scores(
            list(found.values()),
            list(again[key].values()),
            missing(key, False, found),
            missing(key, True, again[key]),
        )
        for key, found in values.items()
    }


def by_seed(runs: pd.DataFrame, metric: str, trials: Trials) -> dict[Key, dict[Any, float]]:
    """Each row's finite values of a metric by seed; the mean over its trials where a seed has several."""
    values = [float(value) for value in runs[metric]] if metric in runs.columns else [math.nan] * len(runs)
    seeds = runs["seed"].tolist()
    seed_values: dict[Key, dict[Any, float]] = {}
    for key, positions in trials.items():
        several = defaultdict(list)
        for position in positions:
            if math.isfinite(values[position]):
                several[seeds[position]].append(values[position])
        seed_values[key] = {seed: statistics.fmean(own) for seed, own in several.items()}
    return seed_values


def lower_is_better(metric: str, objectives: Iterable[Objective]) -> bool:
    """By the direction of an objective on the same metric of any split; else by the metric's name."""
    for objective in objectives:
        if _without_split(objective.metric) == _without_split(metric):
            return not objective.maximizes
    return any(word in metric for word in LOWER_IS_BETTER)


def front_of(runs: pd.DataFrame, pivoted: Pivot, objectives: Sequence[Objective]) -> frozenset[Key]:
    """The rows on the Pareto front of two objectives, by the search's means: not all rows have fresh trials.

    A row that lacks more seeds than others is on none: its mean may be luck.
    """
    first, second = objectives
    firsts, seconds = (_means(runs, objective.metric, pivoted.trials) for objective in objectives)
    scores = scores_of(runs, first.metric, pivoted.trials, {key: [] for key in pivoted.trials})
    lacking = min((scores[key].missing for key in firsts.keys() & seconds.keys()), default=0)
    whole = [key for key in firsts.keys() & seconds.keys() if scores[key].missing == lacking]
    points = {key: (first.sign * firsts[key], second.sign * seconds[key]) for key in whole}
    return frozenset(key for key, best in zip(points, on_front(list(points.values())), strict=True) if best)


def plain(value: Any) -> Any:
    """A value as a Python number, bool, None or text, also where it is numpy's or pandas'."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def values_of(runs: pd.DataFrame, name: str) -> list[Any]:
    """A parameter's value in each run; None where a run does not have it. Raises TableError where none has it.

    Numbers that differ after 12 digits only are one: earlier versions sampled 0.30000000000000004 for 0.3.
    """
    if name in runs.columns:
        return _same_digits([plain(value) for value in runs[name]])
    known = [column for column in runs.columns if "/" not in column]
    if not any("." in column for column in known):  # the trials died before they logged their parameters
        return [None] * len(runs)
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise TableError(f"table.rows: {name!r} is not a parameter of these runs; {remedy}")


def _same_digits(values: Sequence[Any]) -> list[Any]:
    shortest: dict[str, float] = {}
    for value in values:
        if isinstance(value, float):
            rounded = f"{value:.12g}"
            shortest[rounded] = min(shortest.get(rounded, value), value, key=lambda number: len(repr(number)))
    return [shortest[f"{value:.12g}"] if isinstance(value, float) else value for value in values]


def _unambiguous(labels: Mapping[Key, tuple[str, ...]]) -> dict[Key, tuple[str, ...]]:
    """The labels without those of several rows: null and "null" have the same."""
    rows = Counter(label for own in labels.values() for label in set(own))
    return {key: tuple(label for label in own if rows[label] == 1) for key, own in labels.items()}


def _trials(runs: pd.DataFrame, rows: Sequence[str]) -> Trials:
    """The positions of each row's COMPLETE trials; numbers in their order, other values in order of appearance."""
    if runs.empty:
        return {}
    keys = list(map(Key, zip(*(values_of(runs, name) for name in rows), strict=True)))
    keys = keys or [Key()] * len(runs)  # a sweep that searches nothing is one row
    order = [_ranks(values) for values in zip(*keys, strict=True)]
    ranked = sorted(dict.fromkeys(keys), key=lambda key: [ranks[part] for ranks, part in zip(order, key, strict=True)])
    trials: Trials = {key: [] for key in ranked}
    for position, (key, state) in enumerate(zip(keys, runs["state"], strict=True)):
        if state == TrialState.COMPLETE:
            trials[key].append(position)
    return trials


def _ranks(values: Sequence[Any]) -> dict[Any, int]:
    known = [value for value in dict.fromkeys(values) if value is not None]
    if all(isinstance(value, (int, float)) for value in known):
        known.sort()
    return {value: rank for rank, value in enumerate([*known, None])}


def _grouped(runs: pd.DataFrame, rows: Sequence[str], group_by: Groups) -> tuple[tuple[str, ...], int, Trials]:
    """The names of a key's parts, how many of them are the group, and each row's trials; groups in their order."""
    if not isinstance(group_by, Mapping):
        # a searched method is `method` among the rows, and `method.name` in every trial's config
        names = (*group_by, *(row for row in rows if not {row, f"{row}.name"} & set(group_by)))
        return names, len(group_by), _trials(runs, names)
    own = _trials(runs, rows)
    labels = [row_label(key) for key in own]
    group_of = {label_meant(label, labels): name for name, listed in group_by.items() for label in listed}
    keyed = {
        Key((group_of.get(row_label(key), ", ".join(map(value_text, key))), *key)): trials
        for key, trials in own.items()
    }
    order = {name: rank for rank, name in enumerate(group_by)}
    return (GROUP, *rows), 1, dict(sorted(keyed.items(), key=lambda item: order.get(item[0][0], len(order))))


def _validated(metric: str) -> str:
    """The metric on validation where it is of the test split, which must not choose."""
    return f"{metric.removesuffix('_test')}_val" if metric.endswith("_test") else metric


def _without_split(metric: str) -> str:
    stem, _, split = metric.rpartition("_")
    return stem if split in SPLITS else metric
