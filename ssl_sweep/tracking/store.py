"""MLflow's store as the record reads it: a sweep's parent run, its trials' runs, their metrics' histories, their files.

A database is read by SQL, a server through MLflow's client; both give the same.
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
from ssl_sweep.storage.urls import redacted
from ssl_sweep.tracking.transcript import KNOB, PREFIX

EXPERIMENT = "ssl_sweep/"  # before a sweep's name: a shared server has experiments of other people
PARENT = "mlflow.parentRunId"
LARGEST_FLOAT = 1.7976931348623157e308  # what MLflow's SQL stores make of infinity
PAGE = 500  # runs; a server must answer within the timeout
REQUESTS = 8  # at a time, where each metric of each run is one
MAX_POINTS = 900  # metrics in one batch, where MLflow takes 1,000 things in all


class MlflowRejectedError(Exception):
    """MLflow will never take this: to try again is of no use."""


class NotTrackedError(UserError, LookupError):
    """MLflow holds no such sweep, or no such trial of it."""


class StoredRun(NamedTuple):
    """A trial's run as it is stored; `metrics` are the latest values."""

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
    """A client of a store that exists. Raises NotTrackedError."""
    if not has_store(tracking_uri):
        raise NotTrackedError(
            f"no MLflow store at {redacted(tracking_uri)}; run a sweep first, or name another store by tracking.uri"
        )
    return MlflowClient(tracking_uri)


def has_store(tracking_uri: str) -> bool:
    """Whether it can be looked into: MLflow would create a missing SQLite file and take seconds over it."""
    file = tracking_uri.removeprefix("sqlite:///")
    return file == tracking_uri or Path(file).exists()


def is_database(tracking_uri: str) -> bool:
    """Whether the store is a database that is read directly, without a server."""
    return re.match(r"(sqlite|postgresql|mysql|mssql)\b", tracking_uri) is not None


def tag(name: str) -> str:
    """One of our tags in a filter of MLflow's."""
    return f"tags.`{PREFIX}{name}`"


def names(client: MlflowClient) -> list[str]:
    """The names of the sweeps, the newest first."""
    found, token = [], None
    while True:
        page = client.search_experiments(
            filter_string=f"name LIKE '{EXPERIMENT}%'", order_by=["creation_time DESC"], page_token=token
        )
        found += [experiment.name for experiment in page]
        token = page.token
        if not token:
            return [name.removeprefix(EXPERIMENT) for name in found if name.startswith(EXPERIMENT)]


def parent_of(client: MlflowClient, sweep: str, tracking_uri: str) -> Run:
    """The newest parent run: an older one is of a sweep of this name whose storage folder was another.

    Raises NotTrackedError.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT + sweep)
    ids = [] if experiment is None else [experiment.experiment_id]
    found = ids and client.search_runs(ids, f"{tag('role')} = 'parent'", order_by=["start_time DESC"], max_results=1)
    if not found:
        raise NotTrackedError(
            f"no sweep {sweep!r} in MLflow at {redacted(tracking_uri)}; {_remedy(sweep, names(client))}"
        )
    return found[0]


def trial_run(client: MlflowClient, sweep: str, trial_id: str, tracking_uri: str) -> str:
    """The id of a trial's run. Raises NotTrackedError."""
    parent = parent_of(client, sweep, tracking_uri).info
    if re.fullmatch(r"[\w-]+", trial_id):  # anything else is no id, and might not be quoted in a filter
        query = f"tags.`{PARENT}` = '{parent.run_id}' and {tag('trial_id')} = '{trial_id}'"
        if found := client.search_runs([parent.experiment_id], query, max_results=1):
            return str(found[0].info.run_id)
    ids = [trial.tags.get(PREFIX + "trial_id", "") for trial in trials_of(client, sweep, tracking_uri)]
    raise NotTrackedError(
        f"no trial {trial_id!r} of sweep {sweep!r} in MLflow at {redacted(tracking_uri)}; {_remedy(trial_id, ids)}"
    )


def trials_of(client: MlflowClient, sweep: str, tracking_uri: str) -> list[StoredRun]:
    """The runs of a sweep's trials, by choice and seed. Raises NotTrackedError."""
    parent = parent_of(client, sweep, tracking_uri).info
    if is_database(tracking_uri):
        with _connection(tracking_uri) as connection:
            found = _trials_by_sql(connection, parent.run_id)
    else:
        found = _trials_by_api(client, parent.experiment_id, parent.run_id)
    return sorted(found, key=lambda trial: [int(trial.tags.get(PREFIX + key, -1)) for key in ("choice", "seed")])


def points_of(
    client: MlflowClient, trials: Sequence[StoredRun], tracking_uri: str, wanted: Sequence[str] | None
) -> list[StoredPoint]:
    """All values of the `wanted` metrics, or of all, that these runs have, in no order."""
    if is_database(tracking_uri):
        parent = trials[0].tags[PARENT] if trials else ""
        with _connection(tracking_uri) as connection:
            return _points_by_sql(connection, parent, wanted)
    pairs = [(each.run_id, name) for each in trials for name in each.metrics if wanted is None or name in wanted]
    with ThreadPoolExecutor(REQUESTS) as pool:
        histories = pool.map(lambda pair: client.get_metric_history(*pair), pairs)
        return [
            StoredPoint(run_id, name, point.step, unclipped(point.value), point.timestamp)
            for (run_id, name), history in zip(pairs, histories, strict=True)
            for point in history
        ]


def read_file(client: MlflowClient, run_id: str, path: str) -> bytes | None:
    """An artifact's content, or None where the run has none of that path."""
    parent = str(PurePosixPath(path).parent)
    shown = {file.path for file in client.list_artifacts(run_id, None if parent == "." else parent)}
    if path not in shown:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()


def unclipped(value: float) -> float:
    """Infinity again, where the store has the largest number instead."""
    return value if abs(value) < LARGEST_FLOAT else float("inf") * value


def _remedy(wanted: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"


def _trials_by_api(client: MlflowClient, experiment_id: str, parent: str) -> list[StoredRun]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{PARENT}` = '{parent}'", max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return [_stored(run) for run in found]


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
    """The same from MLflow's tables: seven times as fast as its search, which makes an object of every value."""
    active = _active(parent)
    runs: Any = select(SqlRun.run_uuid, SqlRun.status, SqlRun.start_time, SqlRun.end_time).where(active)
    found = {row[0]: StoredRun(row[0], row[1], row[2], row[3], {}, {}, {}) for row in connection.execute(runs)}
    for run_id, key, value in connection.execute(_columns(SqlParam).join(SqlRun).where(active)):
        found[run_id].params[key] = value
    for run_id, key, value in connection.execute(_columns(SqlTag).join(SqlRun).where(active)):
        found[run_id].tags[key] = value
    latest = _columns(SqlLatestMetric).add_columns(SqlLatestMetric.is_nan).join(SqlRun).where(active)
    for run_id, key, value, is_nan in connection.execute(latest.where(_measured(SqlLatestMetric))):
        found[run_id].metrics[key] = float("nan") if is_nan else unclipped(value)
    return list(found.values())


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
    """A knob that is shown as a metric was set, not measured."""
    return table.key.not_like(f"{KNOB}%")


def _columns(table: Any) -> Select[Any]:
    return select(table.run_uuid, table.key, table.value)
