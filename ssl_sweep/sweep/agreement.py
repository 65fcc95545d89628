"""Makes journals and MLflow agree with the ledger where one of them was restored from another state.

The ledger decides: it has the trials of a sweep and their results. Journals follow it when a driver starts, MLflow
when the driver makes the table.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.storage.layout import Storage
from ssl_sweep.tracking.writer import valid_name
from ssl_sweep.trial.claim import keep
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import Ended, Event, MetricsReported, StageFinished, Superseded
from ssl_sweep.trialdir.journal import JOURNAL, Journal, last_event, read

log = logging.getLogger(__name__)


def settle_journals(ledger: LedgerReader, storage: Storage) -> None:
    """Write to journals what the ledger knows better: that a trial has ended, or is none of the sweep any more."""
    known = {trial.trial_id: trial for trial in ledger.trials}
    for folder in sorted((storage.sweep(ledger.spec.name) / "trials").glob("*")):
        if folder.name not in known and (folder / JOURNAL).exists():
            _supersede(folder, storage)
    for trial in known.values():
        if trial.ended and trial.attempts and not _is_ended(trial, storage.trial(ledger.spec.name, trial.trial_id)):
            _settle(trial, ledger, storage)


def differing(ledger: LedgerReader, runs: pd.DataFrame) -> set[str]:
    """The ids of the trials that MLflow has otherwise than the ledger, among them those that the ledger lacks."""
    results = {valid_name(name) for trial in ledger.trials for name in trial.results or ()}
    compared = [name for name in runs.columns if name in {"trial_id", "state", *results}]
    rows: dict[str, list[Mapping[Any, object]]] = defaultdict(list)
    for row in runs[compared].to_dict("records"):
        rows[str(row["trial_id"])].append(row)
    known = {trial.trial_id for trial in ledger.trials}
    if rows and not rows.keys() & known:  # a sweep of this name in another storage
        return set()
    wrong = {trial.trial_id for trial in ledger.trials if trial.ended and not _agrees(trial, rows[trial.trial_id])}
    return wrong | {trial for trial, own in rows.items() if trial not in known or len(own) > 1}


def settle_results(ledger: LedgerReader, storage: Storage, trials: Collection[str]) -> set[str]:
    """Write the ledger's results to the journals of these trials; returns the ids of those whose journals are sound."""
    own = {trial.trial_id: trial for trial in ledger.trials if trial.trial_id in trials}
    return {trial for trial in trials if trial not in own or _settle(own[trial], ledger, storage)}


def _supersede(folder: Path, storage: Storage) -> None:
    try:
        if not isinstance(last_event(folder), Superseded):
            with storage.synced_journal(folder):
                Journal(folder).append(Superseded())
            log.warning(
                "trial %s is not in the ledger, which is older: it is left out of MLflow and tables", folder.name
            )
    except DamagedFileError as error:
        log.warning("trial %s, which is not in the ledger: %s", folder.name, error)


def _is_ended(trial: Trial, folder: Path) -> bool:
    try:
        last = last_event(folder)
    except DamagedFileError:
        return False
    return isinstance(last, Ended) and last.state == trial.state


def _settle(trial: Trial, ledger: LedgerReader, storage: Storage) -> bool:
    """Make a journal end as the ledger says, with the ledger's results; returns whether it can be read."""
    folder = storage.trial(ledger.spec.name, trial.trial_id)
    try:
        with storage.synced_journal(folder):
            keep(folder, ledger.record(trial))
            _write_results(trial, folder)
            if not _is_ended(trial, folder):
                Journal(folder).append(Ended(state=trial.state, reason=trial.reason, message=trial.message))
    except DamagedFileError as error:
        log.warning("trial %s: its journal may differ from the ledger: %s", trial.trial_id, error)
        return False
    return True


def _write_results(trial: Trial, folder: Path) -> None:
    """Write the results that the journal lacks, each at the last step of its metric, where MLflow takes the latest."""
    values, steps = _newest(read(folder)[0])
    missing: dict[int, dict[str, float]] = defaultdict(dict)
    for name, value in (trial.results or {}).items():
        if not _same(values.get(name), value):
            missing[steps.get(name, 0)][name] = value
    for step, metrics in missing.items():
        Journal(folder).append(MetricsReported(metrics=metrics, step=step))


def _newest(events: Sequence[Event]) -> tuple[dict[str, float], dict[str, int]]:
    """The newest value of each metric of a journal, and its highest step."""
    values: dict[str, float] = {}
    steps: dict[str, int] = {}
    for event in events:
        if isinstance(event, MetricsReported):
            values.update(event.metrics)
            steps.update({name: max(event.step, steps.get(name, 0)) for name in event.metrics})
        elif isinstance(event, StageFinished):
            values.update({f"{event.stage}/{name}": value for name, value in event.results.items()})
    return values, steps


def _agrees(trial: Trial, rows: Sequence[Mapping[Any, object]]) -> bool:
    results = (trial.results or {}).items()
    return any(
        row["state"] == trial.state and all(_same(row.get(valid_name(name)), value) for name, value in results)
        for row in rows
    )


def _same(value: object, other: float) -> bool:
    return isinstance(value, float | int) and (value == other or (math.isnan(value) and math.isnan(other)))
