"""A snapshot as the `Sweep` that the report's plots take, with a row for each trial."""

from typing import Any

import pandas as pd

from ssl_sweep.report.sweep import Sweep
from ssl_sweep.service.board.snapshot import Snapshot
from ssl_sweep.tracking.transcript import text


def as_sweep(snapshot: Snapshot) -> Sweep:
    """The sweep with the ledger's trials in place of MLflow's runs."""
    rows = snapshot.rows
    trials = [row.trial for row in rows]
    columns: dict[str, list[Any]] = {
        name: [getattr(trial, name) for trial in trials]
        for name in ("trial_id", "choice", "seed", "state", "reason", "message", "confirms")
    }
    columns["sweep"] = [snapshot.name] * len(rows)
    columns |= {path: [_plain(row.knobs.get(path)) for row in rows] for path in snapshot.knobs}
    columns |= {name: [(trial.results or {}).get(name, float("nan")) for trial in trials] for name in snapshot.metrics}
    return Sweep(
        name=snapshot.name,
        spec=snapshot.spec,
        runs=pd.DataFrame(columns),
        started=pd.Timestamp(snapshot.created, unit="s", tz="UTC"),
        commits=(),
        collapsed=frozenset(),
        planned=snapshot.total,
    )


def _plain(value: Any) -> Any:
    return text(value) if isinstance(value, list | tuple | dict) else value
