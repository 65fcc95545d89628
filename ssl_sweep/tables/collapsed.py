"""Trials whose features collapsed: how many are in each mean of a table."""

import math
from collections.abc import Mapping

import pandas as pd

from ssl_sweep.tables.labels import Key
from ssl_sweep.tables.pivot import Pivot

COLLAPSED = "collapsed"  # the column of the runs


def has_collapsed(runs: pd.DataFrame) -> list[bool]:
    """For each run, whether its features collapsed."""
    return runs[COLLAPSED].astype(bool).tolist() if COLLAPSED in runs.columns else [False] * len(runs)


def collapsed_by_row(runs: pd.DataFrame, metric: str, pivoted: Pivot) -> Mapping[bool, Mapping[Key, int]]:
    """How many trials of each row's mean of a metric collapsed; by whether their seeds are fresh."""
    flags = has_collapsed(runs)
    if not any(flags) or metric not in runs.columns:
        return {kind: dict.fromkeys(pivoted.trials, 0) for kind in (False, True)}
    values = [float(value) for value in runs[metric]]
    return {
        kind: {key: sum(flags[i] and math.isfinite(values[i]) for i in positions) for key, positions in trials.items()}
        for kind, trials in ((False, pivoted.trials), (True, pivoted.fresh))
    }
