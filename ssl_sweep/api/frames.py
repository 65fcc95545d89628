"""The trials of a sweep as a data frame."""

from pathlib import Path
from typing import Any

import pandas as pd

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.status import trial_statuses
from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.events import MetricsReported

FIRST = ("trial_id", "choice", "seed", "state")
LAST = ("reason", "message", "collapsed", "attempts", "stage", "epoch", "confirms", "folder")


def trials_frame(ledger: LedgerReader, storage: Storage) -> pd.DataFrame:
    """One row a trial, by choice and seed; see `Sweep.trials` for the columns."""
    trials = sorted(ledger.trials, key=lambda trial: (trial.choice, trial.confirms, trial.seed))
    statuses = trial_statuses(trials, ledger, storage)
    metrics = [_metrics(trial, Path(status["folder"])) for trial, status in zip(trials, statuses, strict=True)]
    columns: dict[str, list[Any]] = {name: [status[name] for status in statuses] for name in FIRST}
    for knob in dict.fromkeys(knob for status in statuses for knob in status["knobs"]):
        columns[knob] = [status["knobs"].get(knob) for status in statuses]
    for metric in dict.fromkeys(metric for values in metrics for metric in values):
        columns[metric] = [values.get(metric, float("nan")) for values in metrics]
    return pd.DataFrame(columns | {name: [status[name] for status in statuses] for name in LAST})


def _metrics(trial: Trial, folder: Path) -> dict[str, float]:
    """A trial's results, or without any the last value of each metric that it reported."""
    if trial.results is not None or not (folder / journal.JOURNAL).exists():
        return dict(trial.results or {})
    reports = (event for event in journal.read(folder)[0] if isinstance(event, MetricsReported))
    return {name: value for report in reports for name, value in report.metrics.items()}
