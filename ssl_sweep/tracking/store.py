"""Queries to MLflow: a sweep's parent run, its trials' runs, the histories of their metrics, their files.

A database is read by SQL, a server through MLflow's client, with the same results.
"""

import difflib
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from sqlalchemy import Connection, Select, and_, create_engine, select

from ssl_sweep.errors import UserError
from ssl_sweep.storage.database_urls import sqlite_file
from ssl_sweep.storage.sqlite_file import check_file, damaged, is_damage
from ssl_sweep.storage.urls import redacted
from ssl_sweep.tracking.locations import files_to_read
from ssl_sweep.tracking.locked_file import await_unlocked
from ssl_sweep.tracking.transcript import KNOB, PREFIX

EXPERIMENT = "ssl_sweep/"  # prefix of a sweep's name: a shared server has other people's experiments
PARENT = "mlflow.parentRunId"
LARGEST_FLOAT = 1.7976931348623157e308  # MLflow's SQL stores replace infinity by it
PAGE = 500  # runs in one request: a server must answer within the timeout
REQUESTS = 8  # at a time; each metric of each run is one request
TABLES = ("experiments", "runs", "tags")
MENDS = "delivers the journals of all sweeps to a new one"
MAX_POINTS = 900  # metrics in one batch; MLflow's limit is 1,000 entries in all


class MlflowRejectedError(Exception):
    """MLflow has rejected data and would reject them again: do not retry."""


class NotTrackedError(UserError, LookupError):
    """MLflow has no such sweep, or no such trial of it."""


class StoredRun(NamedTuple):
    """A trial's run in MLflow; `metrics` has the latest values."""

    run_id: str
    status: str
    start_ms: int
    end_ms: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class StoredPoint(NamedTuple):
    """One value of a metric."""

    run_id: str
    name: str
    step: int
    value: float
    time_ms: int


def connect(tracking_uri: str) -> MlflowClient:
    """A client of an existing store. Raises NotTrackedError, DamagedFileError, MlflowLockedError."""
    check_store(tracking_uri)
    if not has_store(tracking_uri):
        raise NotTrackedError(
            f"no MLflow store at {redacted(tracking_uri)}; run a sweep first, name its storage by --storage or "
            "SSL_SWEEP_STORAGE, or, where the store is lost, deliver its journals again: ssl-sweep sync NAME"
        )
    if tracking_uri.startswith("sqlite") and (file := sqlite_file(tracking_uri)) is not None:
        await_unlocked(file)
    return MlflowClient(tracking_uri)


def check_store(tracking_uri: str) -> None:
    """Check that a store in an SQLite file is no damaged one. Raises DamagedFileError."""
    if (file := _file(tracking_uri)) is not None:
        check_file(file, TABLES, MENDS)


@contextmanager
def naming_damage(tracking_uri: str) -> Iterator[None]:
    """Name the file where SQLite finds that a page is damaged, of whatever type MLflow makes the error."""
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise damaged(_file(tracking_uri) or tracking_uri, "is damaged", MENDS) from error


def has_store(tracking_uri: str) -> bool:
    """Whether the store exists: MLflow would take seconds to create a missing SQLite file."""
    file = _file(tracking_uri)
    return file is None or file.exists()


def _file(tracking_uri: str) -> Path | None:
    """The SQLite file of a store; None of another one."""
    return sqlite_file(tracking_uri) if tracking_uri.startswith("sqlite") else None


def is_database(tracking_uri: str) -> bool:
    """Whether the store is a database, which is read without a server."""
    return re.match(r"(sqlite|postgresql|mysql|mssql)\b", tracking_uri) is not None


def tag_filter(name: str) -> str:
    """A tag of this package, in MLflow's filter language."""
    return f"tags.`{PREFIX}{name}`"


def sweep_names(client: MlflowClient) -> list[str]:
    """The names of the sweeps, the newest first."""
    experiments, token = [], None
    while True:
        page = client.search_experiments(
            filter_string=f"name LIKE '{EXPERIMENT}%'", order_by=["creation_time DESC"], page_token=token
        )
        experiments += [experiment.name for experiment in page]
        token = page.token
        if not token:
            return [name.removeprefix(EXPERIMENT) for name in experiments if name.startswith(EXPERIMENT)]


def parent_run(client: MlflowClient, sweep: str, tracking_uri: str) -> Run:
    """The newest parent run. An older one belongs to a sweep of this name in another storage folder.

    Raises NotTrackedError.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT + sweep)
    ids = [] if experiment is None else [experiment.experiment_id]
    runs = ids and client.search_runs(
        ids, f"{tag_filter('role')} = 'parent'", order_by=["start_time DESC"], max_results=1
    )
    if not runs:
        raise NotTrackedError(
            f"no sweep {sweep!r} in MLflow at {redacted(tracking_uri)}; {_remedy(sweep, sweep_names(client))}"
        )
    return runs[0]


def trial_run(client: MlflowClient, sweep: str, trial_id: str, tracking_uri: str) -> str:
    """The id of a trial's run. Raises NotTrackedError."""
    parent = parent_run(client, sweep, tracking_uri).info
    if re.fullmatch(r"[\w-]+", trial_id):  # anything else is no id, and cannot be quoted in a filter
        query = f"tags.`{PARENT}` = '{parent.run_id}' and {tag_filter('trial_id')} = '{trial_id}'"
        if runs := client.search_runs([parent.experiment_id], query, max_results=1):
            return str(runs[0].info.run_id)
    ids = [trial.tags.get(PREFIX + "trial_id", "") for trial in trial_runs(client, sweep, tracking_uri)]
    raise NotTrackedError(
        f"no trial {trial_id!r} of sweep {sweep!r} in MLflow at {redacted(tracking_uri)}; {_remedy(trial_id, ids)}"
    )


def trial_runs(client: MlflowClient, sweep: str, tracking_uri: str) -> list[StoredRun]:
    """The runs of a sweep's trials, by choice and seed. Raises NotTrackedError."""
    parent = parent_run(client, sweep, tracking_uri).info
    if is_database(tracking_uri):
        with _connection(tracking_uri) as connection:
            trials = _trials_by_sql(connection, parent.run_id)
    else:
        trials = _trials_by_api(client, parent.experiment_id, parent.run_id)
    return sorted(trials, key=lambda trial: [int(trial.tags.get(PREFIX + key, -1)) for key in ("choice", "seed")])


def metric_points(
    client: MlflowClient, trials: Sequence[StoredRun], tracking_uri: str, wanted: Sequence[str] | None
) -> list[StoredPoint]:
    """All values of the `wanted` metrics (None: of all metrics) of these runs, in no order."""
    if is_database(tracking_uri):
        parent = trials[0].tags[PARENT] if trials else ""
        with _connection(tracking_uri) as connection:
            return _points_by_sql(connection, parent, wanted)
    pairs = [(trial.run_id, name) for trial in trials for name in trial.metrics if wanted is None or name in wanted]
    with ThreadPoolExecutor(REQUESTS) as pool:
        histories = pool.map(lambda pair: client.get_metric_history(*pair), pairs)
        return [
            StoredPoint(run_id, name, point.step, unclipped(point.value), point.timestamp)
            for (run_id, name), history in zip(pairs, histories, strict=True)
            for point in history
        ]


def read_file(client: MlflowClient, run_id: str, path: str) -> bytes | None:
    """An artifact's content; None if the run has none at this path."""
    parent = str(PurePosixPath(path).parent)
    files = files_to_read(client, run_id)
    paths = {file.path for file in files.list_artifacts(None if parent == "." else parent)}
    if path not in paths:
        return None
    with tempfile.TemporaryDirectory() as folder:
        copied: str = files.download_artifacts(path, folder)  # type: ignore[no-untyped-call]
        return Path(copied).read_bytes()


def unclipped(value: float) -> float:
    """The value that was logged: infinity, where the store has the largest float."""
    return value if abs(value) < LARGEST_FLOAT else float("inf") * value


def _remedy(wanted: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"


def _trials_by_api(client: MlflowClient, experiment_id: str, parent: str) -> list[StoredRun]:
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{PARENT}` = '{parent}'", max_results=PAGE, page_token=token)
        runs += page
        token = page.token
        if not token:
            return [_stored(run) for run in runs]


def _stored(run: Run) -> StoredRun:
    info, data = run.info, run.data
    metrics = {name: unclipped(value) for name, value in data.metrics.items() if not name.startswith(KNOB)}
    return StoredRun(info.run_id, info.status, info.start_time, info.end_time, data.params, metrics, data.tags)


@contextmanager
def _connection(tracking_uri: str) -> Iterator[Connection]:
    engine = create_engine(tracking_uri)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def _trials_by_sql(connection: Connection, parent: str) -> list[StoredRun]:
    """The trials from MLflow's tables: seven times as fast as its search, which creates an object per value."""
    active = _active(parent)
    query: Any = select(SqlRun.run_uuid, SqlRun.status, SqlRun.start_time, SqlRun.end_time).where(active)
    trials = {row[0]: StoredRun(row[0], row[1], row[2], row[3], {}, {}, {}) for row in connection.execute(query)}
    for run_id, key, value in connection.execute(_columns(SqlParam).join(SqlRun).where(active)):
        trials[run_id].params[key] = value
    for run_id, key, value in connection.execute(_columns(SqlTag).join(SqlRun).where(active)):
        trials[run_id].tags[key] = value
    latest = _columns(SqlLatestMetric).add_columns(SqlLatestMetric.is_nan).join(SqlRun).where(active)
    for run_id, key, value, is_nan in connection.execute(latest.where(_measured(SqlLatestMetric))):
        trials[run_id].metrics[key] = float("nan") if is_nan else unclipped(value)
    return list(trials.values())


def _points_by_sql(connection: Connection, parent: str, wanted: Sequence[str] | None) -> list[StoredPoint]:
    columns = _columns(SqlMetric).add_columns(SqlMetric.is_nan, SqlMetric.step, SqlMetric.timestamp)
    query = columns.join(SqlRun).where(_active(parent), _measured(SqlMetric))
    if wanted is not None:
        query = query.where(SqlMetric.key.in_(wanted))
    return [
        StoredPoint(run_id, name, step, float("nan") if is_nan else unclipped(value), time_ms)
        for run_id, name, value, is_nan, step, time_ms in connection.execute(query)
    ]


def _active(parent: str) -> Any:
    children: Select[tuple[str]] = select(SqlTag.run_uuid).where(SqlTag.key == PARENT, SqlTag.value == parent)
    return and_(SqlRun.run_uuid.in_(children), SqlRun.lifecycle_stage == "active")


def _measured(table: Any) -> Any:
    """Excludes knobs that are logged as metrics: they are settings, not measurements."""
    return table.key.not_like(f"{KNOB}%")


def _columns(table: Any) -> Select[Any]:
    return select(table.run_uuid, table.key, table.value)
