"""Which choices a spec's table compares: the best one of each group, and the baseline."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ssl_sweep.spec.sweep import SweepSpec, resolve
from ssl_sweep.tables.labels import label_meant, row_label
from ssl_sweep.tracking.transcript import flat


def compared(spec: SweepSpec, choices: Mapping[int, Mapping[str, Any]], best_first: Sequence[int]) -> list[int]:
    """The numbers of the choices that the table compares.

    Args:
        spec: the sweep's.
        choices: the knobs of each choice, by its number.
        best_first: the numbers of the choices to select from.
    """
    found: dict[str, int] = {}  # the best choice of each group, and of the baseline
    for number in best_first:
        row, group = _labels(spec, choices[number])
        if group is not None:
            found.setdefault(f"group {group}", number)
        if spec.table.baseline is not None and label_meant(spec.table.baseline, [row, *([group] if group else [])]):
            found.setdefault("baseline", number)
    return list(dict.fromkeys(found.values()))


def most_compared(spec: SweepSpec, choices: int) -> int:
    """At most so many of a number of choices are compared; the spec alone does not know the groups."""
    groups = choices if spec.table.group_by else 0
    return min(choices, groups + (spec.table.baseline is not None))


def _labels(spec: SweepSpec, knobs: Mapping[str, Any]) -> tuple[str, str | None]:
    """The labels of a choice's row and of its group; None if the table has no groups."""
    group_by = spec.table.group_by
    row = _label(spec, knobs, spec.table.rows)
    if not group_by:
        return row, None
    if not isinstance(group_by, Mapping):
        return row, _label(spec, knobs, group_by)
    return row, next((name for name, rows in group_by.items() if row in rows), row)


def _label(spec: SweepSpec, knobs: Mapping[str, Any], paths: Sequence[str]) -> str:
    @cache
    def config() -> dict[str, str]:
        return flat(resolve(spec, knobs, spec.search.seeds[0]))

    return row_label([knobs[path] if path in knobs else config().get(path) for path in paths])
