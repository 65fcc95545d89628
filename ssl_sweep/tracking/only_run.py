"""Finds the one run that a trial or a sweep has in MLflow, and deletes what is there besides."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from ssl_sweep.tracking.transcript import EXACT, PREFIX, text
from ssl_sweep.trialdir.record import TrialRecord, setting_key

log = logging.getLogger(__name__)


def only_run(client: MlflowClient, experiment_id: str, query: str, record: TrialRecord | None) -> str | None:
    """The id of a trial's only run, or of the sweep's newest, where `record` is None; None: it is to be created.

    Where a trial has several runs, each has a part of its events: two machines delivered at once. A run of another
    setting keeps that one's parameters. MLflow has both kinds as deleted, and restores them on request.
    """
    runs: list[Run] = client.search_runs([experiment_id], query)
    if record is None or (len(runs) == 1 and _is_of(record, runs[0])):
        return str(runs[0].info.run_id) if runs else None
    why = "of another setting" if len(runs) == 1 else "one of several"
    for run in runs:
        words = "trial %s: its run %s in MLflow is %s: it is deleted, and a new one gets all events"
        log.warning(words, record.trial_id, run.info.run_id, why)
        client.delete_run(run.info.run_id)
    return None


def _is_of(record: TrialRecord, run: Run) -> bool:
    """Whether the run has the record's searched knobs and seed, as far as it has any."""
    exact = json.loads(run.data.tags.get(PREFIX + EXACT, "{}"))
    wanted = {**record.knobs, **({} if record.seed is None else {"seed": record.seed})}
    return all(_is_value(path, value, exact, run.data.params) for path, value in wanted.items())


def _is_value(path: str, value: Any, exact: Mapping[str, Any], params: Mapping[str, str]) -> bool:
    if path in exact:
        return setting_key({path: exact[path]}) == setting_key({path: value})
    if path not in params or params[path] == text(value):
        return True
    if not isinstance(value, float):
        return False
    try:  # the text of an earlier version: 0.30000000000000004
        return setting_key({path: float(params[path])}) == setting_key({path: value})
    except ValueError:
        return False
