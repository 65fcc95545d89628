"""A sweep read from MLflow: its trials and their metrics as data frames, its spec, its files."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ssl_sweep.storage.urls import redacted
from ssl_sweep.tracking import store
from ssl_sweep.tracking.store import NotTrackedError, StoredRun
from ssl_sweep.tracking.transcript import EXACT, FINGERPRINT, PREFIX, text, value_of
from ssl_sweep.trialdir.states import TrialState

__all__ = ["NotTrackedError", "artifact", "histories", "list_sweeps", "runs", "spec_of"]


def runs(sweeps: Sequence[str], tracking_uri: str) -> pd.DataFrame:
    """One row per trial, by choice and seed.

    Columns: trial_id, sweep, choice, seed, state, attempt, reason, message, data_fingerprint (see `transcript.labels`),
    settings (paths of the knobs that a resume has set), confirms (a fresh seed of one of the best choices),
    collapsed, then parameters (`views.overlay_alpha`) with the types of the trial's config, lists as JSON; of runs of
    earlier versions, a text that reads as a number is one. Then the latest value of each metric (`finetune/top1_test`),
    then start and end (UTC).
    Raises NotTrackedError for an unknown sweep.
    """
    with store.naming_damage(tracking_uri):
        client = store.connect(tracking_uri)
        rows = [_row(sweep, trial) for sweep in sweeps for trial in store.trial_runs(client, sweep, tracking_uri)]
    first = ["trial_id", "sweep", "choice", "seed", "state", "attempt", "reason", "message", FINGERPRINT]
    params = sorted({name for row in rows for name in {**row["params"], **row["exact"]}} - set(first))
    metrics = sorted({name for row in rows for name in row["metrics"]})
    columns: dict[str, list[Any]] = {name: [row["tags"].get(name) for row in rows] for name in first}
    columns["settings"] = [tuple(json.loads(row["tags"].get("settings", "[]"))) for row in rows]
    for flag in ("confirms", "collapsed"):
        columns[flag] = [row["tags"].get(flag) == "true" for row in rows]
    columns |= {name: _parameter(name, rows) for name in params}
    columns |= {name: [row["metrics"].get(name, float("nan")) for row in rows] for name in metrics}
    columns |= {name: [row[name] for row in rows] for name in ("start", "end")}
    return pd.DataFrame(columns)


def histories(sweep: str, tracking_uri: str, names: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per step of each metric that a trial reported: trial_id, name, step, value, time (UTC).

    Of a stage that ran again, each step has its newest value. Sorted by trial (choice, seed), name and step. `names`
    are metrics (`pretrain/loss`); None: all. Raises NotTrackedError for an unknown sweep.
    """
    with store.naming_damage(tracking_uri):
        client = store.connect(tracking_uri)
        trials = store.trial_runs(client, sweep, tracking_uri)
        points = store.metric_points(client, trials, tracking_uri, names)
    order = {trial.run_id: (rank, trial.tags.get(PREFIX + "trial_id")) for rank, trial in enumerate(trials)}
    points.sort(key=lambda point: point.time_ms)
    newest = {(order[point.run_id][0], point.name, point.step): point for point in points}
    points = [newest[place] for place in sorted(newest)]
    columns: dict[str, Any] = {
        "trial_id": [order[point.run_id][1] for point in points],
        "name": [point.name for point in points],
        "step": pd.Series([point.step for point in points], dtype="int64"),
        "value": pd.Series([point.value for point in points], dtype="float64"),
        "time": pd.to_datetime(pd.Series([point.time_ms for point in points], dtype="int64"), unit="ms", utc=True),
    }
    return pd.DataFrame(columns)


def artifact(sweep: str, trial_id: str | None, path: str, tracking_uri: str) -> bytes | None:
    """The content of a file of a trial, or of the sweep (trial_id None); None if there is no such file.

    `path` is as MLflow shows it: `pictures.png`, `table.md`. Raises NotTrackedError for an unknown sweep or trial.
    """
    with store.naming_damage(tracking_uri):
        client = store.connect(tracking_uri)
        if trial_id is None:
            run_id = str(store.parent_run(client, sweep, tracking_uri).info.run_id)
        else:
            run_id = store.trial_run(client, sweep, trial_id, tracking_uri)
        return store.read_file(client, run_id, path)


def spec_of(sweep: str, tracking_uri: str) -> dict[str, Any]:
    """The spec of a sweep, from its parent run."""
    content = artifact(sweep, None, "spec.json", tracking_uri)
    if content is None:
        raise NotTrackedError(
            f"sweep {sweep!r} has no spec.json in MLflow at {redacted(tracking_uri)}; "
            f"deliver it again with `ssl-sweep sync {sweep}`"
        )
    spec: dict[str, Any] = json.loads(content)
    return spec


def list_sweeps(tracking_uri: str) -> list[str]:
    """The names of the sweeps in MLflow, the newest first."""
    store.check_store(tracking_uri)
    with store.naming_damage(tracking_uri):
        return store.sweep_names(store.connect(tracking_uri)) if store.has_store(tracking_uri) else []


def _row(sweep: str, trial: StoredRun) -> dict[str, Any]:
    tags = {key.removeprefix(PREFIX): value for key, value in trial.tags.items() if key.startswith(PREFIX)}
    numbers = {key: int(tags[key]) for key in ("choice", "seed", "attempt") if key in tags}
    ended = trial.end_ms if trial.status != "RUNNING" else None  # of an earlier attempt
    return {
        "tags": {"state": TrialState.CREATED, **tags, **numbers, "sweep": sweep},
        "params": trial.params,
        "exact": json.loads(trial.tags.get(PREFIX + EXACT, "{}")),
        "metrics": trial.metrics,
        "start": pd.Timestamp(trial.start_ms, unit="ms", tz="UTC"),
        "end": pd.NaT if ended is None else pd.Timestamp(ended, unit="ms", tz="UTC"),
    }


def _parameter(name: str, rows: Sequence[dict[str, Any]]) -> list[Any]:
    """A parameter's value in each run. A text of an earlier version's run has the type that it has in other runs."""
    known = {text(row["exact"][name]): row["exact"][name] for row in rows if name in row["exact"]}
    is_text = any(isinstance(value, str) for value in known.values())
    values = []
    for row in rows:
        written = row["params"].get(name)
        if name in row["exact"]:
            values.append(row["exact"][name])
        elif written in known:
            values.append(known[written])
        else:
            values.append(written if written is None or is_text else _guess(written))
    return [text(value) if isinstance(value, list | dict) else value for value in values]


def _guess(written: str) -> Any:
    try:
        return value_of(written)
    except ValueError:
        return written
