"""The notes below a table: how its figures were computed, and which of them are not comparable."""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ssl_sweep.knobs.objective import Objective
from ssl_sweep.tables.collapsed import COLLAPSED
from ssl_sweep.tables.inference_notes import MAX_NAMED, on_best, on_spread, on_tests, several
from ssl_sweep.tables.labels import FRONT, Key, label_meant, label_text, row_label, row_name
from ssl_sweep.tables.pivot import Pivot, is_fresh, plain
from ssl_sweep.tables.shares import difference_note
from ssl_sweep.tables.table import Cell, Table
from ssl_sweep.trialdir.states import TrialState

FINGERPRINT = "data_fingerprint"
NO_KNOBS = (
    "trial_id", "choice", "seed", "state", "attempt", "reason", "message", FINGERPRINT, "settings", "confirms",
    COLLAPSED, "start", "end",
)  # fmt: skip


def notes(
    runs: pd.DataFrame,
    table: Table,
    pivoted: Pivot,
    published: Mapping[str, Mapping[Any, float]],
    baseline: Any,
    reference: Key | None,
    test: str,
    objectives: Sequence[Objective],
) -> tuple[str, ...]:
    """Every note of a table, by the arguments and intermediate results of `tables.ablation`."""
    if runs.empty:
        return ("no trials yet",)
    return (
        *on_spread(runs, table),
        *_on_trials(runs),
        *_on_collapsed(runs, table, pivoted),
        *_on_confirmed(runs, pivoted),
        *_on_front(table, objectives),
        *on_best(table, pivoted),
        *_on_choice(runs, table, pivoted),
        *_on_groups(runs, pivoted),
        *_on_columns(runs, table.columns),
        *on_tests(table, pivoted, baseline, reference, test),
        *_on_published(runs, table, pivoted, published),
    )


def on_missing(runs: pd.DataFrame, complete: Mapping[str, Collection[str]]) -> Iterator[str]:
    """A note for each sweep on its complete trials, by their ids, that MLflow lacks."""
    known = set(zip(runs["sweep"], runs["trial_id"], strict=True))
    for sweep, ids in complete.items():
        if missing := [trial_id[:8] for trial_id in ids if (sweep, trial_id) not in known]:
            yield f"not here: {len(missing)} complete trials ({several(missing)}); ssl-sweep sync {sweep} says why"


def _on_trials(runs: pd.DataFrame) -> Iterator[str]:
    left_out = Counter(state for state in runs["state"] if state != TrialState.COMPLETE)
    if left_out:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(left_out.items()))
        yield f"not in the means: {counts} of {len(runs)} trials"


def _on_collapsed(runs: pd.DataFrame, table: "Table", pivoted: Pivot) -> Iterator[str]:
    """The rows whose means hold trials that have collapsed."""
    held = {row.key: max(_collapsed_in(cell) for cell in row.cells) for row in table.body if row.cells}
    trials = {key: len(pivoted.trials[key]) + len(pivoted.fresh[key]) for key in held}
    named = [f"{row_name(key, table.rows)} ({count} of {trials[key]})" for key, count in held.items() if count]
    if named:
        words = "these means hold collapsed trials, whose features are nearly the same for all images"
        yield f"{words}: {several(named)}"


def _collapsed_in(cell: Cell) -> int:
    return cell.collapsed + (cell.confirmed.collapsed if cell.confirmed is not None else 0)


def _on_confirmed(runs: pd.DataFrame, pivoted: Pivot) -> Iterator[str]:
    fresh = [i for trials in pivoted.fresh.values() for i in trials]
    if fresh:
        seeds = sorted({int(runs["seed"].iloc[i]) for i in fresh})
        choices = {(runs["sweep"].iloc[i], runs["choice"].iloc[i]) for i in fresh}
        which = "choice" if len(choices) == 1 else f"{len(choices)} choices"
        yield (
            f"confirmed: over {len(seeds)} fresh seeds ({', '.join(map(str, seeds))}) of the {which} that the search "
            "found best; change: confirmed mean minus the search's mean, which is biased for the best"
        )


def _on_front(table: "Table", objectives: Sequence[Objective]) -> Iterator[str]:
    if table.front:
        judged = ", ".join(map(str, objectives))
        yield f"{FRONT}: on the Pareto front of {judged}, by the search's means"


def _on_choice(runs: pd.DataFrame, table: "Table", pivoted: Pivot) -> Iterator[str]:
    if pivoted.chosen_by is None:
        return
    if pivoted.chosen_by not in runs.columns:
        yield f"no trial has reported {pivoted.chosen_by}, which chooses each group's row"
        return
    counts = Counter(pivoted.chosen_from.values())
    tried = f", of {counts.popitem()[0]} each" if len(counts) == 1 else ""
    if not tried and len(pivoted.chosen_from) <= MAX_NAMED:
        groups = {key: next(iter(labels), row_label(key)) for key, labels in pivoted.labels.items()}
        counted = [f"{groups[key]} of {count}" for key, count in pivoted.chosen_from.items()]
        tried = f": {', '.join(counted)}"
    best = "lowest" if pivoted.lowest else "highest"
    yield f"each group's row has the {best} mean {pivoted.chosen_by}{tried}"


def _on_groups(runs: pd.DataFrame, pivoted: Pivot) -> Iterator[str]:
    """Notes on means over fewer seeds, or over different settings, than other rows have."""
    seeds, choices = runs["seed"].tolist(), list(zip(runs["sweep"], runs["choice"], strict=True))
    num_seeds = len({seed for seed, fresh in zip(seeds, is_fresh(runs), strict=True) if not fresh})
    have = {key: len({seeds[i] for i in trials}) for key, trials in pivoted.trials.items()}
    fewer = [f"{row_name(key, pivoted.names)} ({n})" for key, n in have.items() if n < num_seeds]
    if fewer and num_seeds > 1:
        yield f"fewer than {num_seeds} seeds: {several(fewer)}"
    if mixed := [trials for trials in pivoted.trials.values() if len({choices[i] for i in trials}) > 1]:
        varied = ", ".join(_varied(runs, mixed)) or "no parameter"
        rows = "1 row is a mean" if len(mixed) == 1 else f"{len(mixed)} rows are means"
        yield f"{rows} over several choices, seed by seed, which differ in {varied}"


def _varied(runs: pd.DataFrame, groups: Sequence[Sequence[int]]) -> list[str]:
    """The parameters that have more than one value in some group."""
    varied = []
    for name in runs.columns:
        if "/" not in name and name not in NO_KNOBS:
            values = [plain(value) for value in runs[name]]
            if any(len({values[i] for i in trials}) > 1 for trials in groups):
                varied.append(name)
    return varied


def _on_columns(runs: pd.DataFrame, columns: Iterable[str]) -> Iterator[str]:
    for name in columns:
        if name not in runs.columns:
            near = difflib.get_close_matches(name, [column for column in runs.columns if "/" in column], n=1)
            yield f"no trial has reported {name}" + (f"; did you mean {near[0]}?" if near else "")


def _on_published(
    runs: pd.DataFrame, table: "Table", pivoted: Pivot, published: Mapping[str, Mapping[Any, float]]
) -> Iterator[str]:
    labels = pivoted.known.union(*pivoted.labels.values())
    wanted = dict.fromkeys(label_text(label) for metric in table.columns for label in published.get(metric, {}))
    if lost := [label for label in wanted if label_meant(label, labels) is None]:
        yield f"published, but no row here: {'; '.join(lost)}"
    if any(cell.difference is not None for row in table.body for cell in row.cells):
        yield difference_note(runs, published)
