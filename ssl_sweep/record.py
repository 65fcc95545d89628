"""A sweep in MLflow: an experiment `ssl_sweep/NAME` with a parent run and a child run a trial; read back as pandas.

Everything may be written again: runs are found by their tags before they are made, parameters repeat their values, and
MLflow's stores take a metric with the same key, value, step and time as the same row. So MLflow may be slow, down, or
rebuilt from nothing.
"""

import difflib
import json
import logging
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

# Before MLflow reads them: its retries block for minutes, and it writes to the console, where progress is shown.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # the recorder says what goes wrong, once an outage
}.items():
    os.environ.setdefault(_name, _value)

import pandas as pd  # noqa: E402
import yaml  # noqa: E402
from filelock import FileLock  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Experiment, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag  # noqa: E402
from sqlalchemy import Select, and_, create_engine, select  # noqa: E402

from ssl_sweep.journal import MAX_LINE_BYTES, read  # noqa: E402
from ssl_sweep.spool import SWEEP, folder_of  # noqa: E402
from ssl_sweep.storage import redacted  # noqa: E402
from ssl_sweep.transcript import PREFIX, Update, parameters, run_name, text, value_of  # noqa: E402

EXPERIMENT = "ssl_sweep/"  # before a sweep's name: a shared server has experiments of other people
PARENT = "mlflow.parentRunId"
MAX_PARAM, MAX_TAG = 6_000, 8_000  # characters that MLflow takes
MAX_PARAMS, MAX_POINTS = 100, 900  # in one batch, where MLflow takes 100 parameters and 1,000 things in all
LARGEST_FLOAT = 1.7976931348623157e308  # what MLflow's SQL stores make of infinity
PAGE = 500  # runs; a server must answer within the timeout
LOCK_TIMEOUT_S = 60.0
log = logging.getLogger(__name__)


class NotRecorded(LookupError):  # noqa: N818 - what it says
    """MLflow holds no such sweep."""


class Refused(Exception):  # noqa: N818 - MLflow's answer
    """MLflow will never take this: to try again is of no use."""


class SweepRuns:
    """The runs of one sweep, found or created, and written to; `name` is a trial's id, or `SWEEP` for the parent."""

    def __init__(self, sweep: str, folder: Path, tracking_uri: str) -> None:
        self._sweep, self._folder = sweep, folder
        self._lock = FileLock(folder.parent / ".mlflow.lock", timeout=LOCK_TIMEOUT_S)
        with self._lock:  # two sweeps that start at once must not both create the store's tables
            self._client = MlflowClient(tracking_uri)
            self._experiment_id = self._experiment(tracking_uri)
            self._sweep_id = _identity(folder / "sweep_id")
        self._known: dict[str, str] = {}
        self.parent, _ = self.run(SWEEP)

    def run(self, name: str) -> tuple[str, bool]:
        """The id of a run, and whether it had to be created."""
        if name in self._known:
            return self._known[name], False
        with self._lock, _refusals():
            found = self._find(name)
            self._known[name] = found or self._create(name)
        return self._known[name], found is None

    def describe(self, name: str, run_id: str) -> None:
        """Logs what a trial is: every resolved value as a parameter, and the file they stand in."""
        if name == SWEEP:
            return
        values = {_key(key): value[:MAX_PARAM] for key, value in parameters(self._record(name)).items()}
        known = self._client.get_run(run_id).data.params
        for key in sorted(key for key, value in known.items() if values.get(key, value) != value):
            log.warning("trial %s: MLflow keeps the first value of %s, %s; now %s", name, key, known[key], values[key])
        params = [Param(key, value) for key, value in values.items() if key not in known]
        with _refusals():
            for start in range(0, len(params), MAX_PARAMS):
                self._client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
        self._upload(name, run_id, "config.yaml")

    def write(self, name: str, run_id: str, update: Update) -> None:
        """Logs what an update says; may be repeated."""
        points = [Metric(_key(point.name), point.value, point.time_ms, point.step) for point in update.points]
        tags = [RunTag(key, _clean(value)) for key, value in update.tags.items()]
        with _refusals():
            self._client.log_batch(run_id, metrics=points[:MAX_POINTS], tags=tags)
            for start in range(MAX_POINTS, len(points), MAX_POINTS):
                self._client.log_batch(run_id, metrics=points[start : start + MAX_POINTS])
            for file, content in update.texts.items():
                self._client.log_text(run_id, content, file)
        for path in dict.fromkeys(update.files):
            self._upload(name, run_id, path)
        if update.status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        elif update.status is not None:
            self._client.set_terminated(run_id, update.status, update.end_ms)

    def _experiment(self, tracking_uri: str) -> str:
        name = EXPERIMENT + self._sweep
        found: Experiment | None = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        beside = (self._folder.parent / "mlartifacts").resolve().as_uri()
        location = beside if _is_database(tracking_uri) else None  # a server knows where artifacts belong
        # the kind has MLflow's pages show training runs rather than traces
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(name, artifact_location=location, tags=tags))

    def _find(self, name: str) -> str | None:
        role = f"{_tag('role')} = 'parent'" if name == SWEEP else f"{_tag('trial_id')} = '{name}'"
        query = f"{role} and {_tag('sweep_id')} = '{self._sweep_id}'"
        found = self._client.search_runs([self._experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, name: str) -> str:
        tags: dict[str, Any] = {"sweep": self._sweep, "sweep_id": self._sweep_id, "role": "parent"}
        record, title, parent = {}, self._sweep, {}
        if name != SWEEP:
            record = self._record(name)
            tags |= {"role": "trial", "trial_id": name, "choice": record.get("choice"), "seed": record.get("seed")}
            title, parent = run_name(record), {PARENT: self.parent}
        first, _ = read(folder_of(self._folder, name), 0, MAX_LINE_BYTES)
        started = first[0]["time"] if first else time.time()
        ours = {PREFIX + key: text(value) for key, value in tags.items() if value is not None}
        run = self._client.create_run(self._experiment_id, int(started * 1000), ours | parent, title)
        return str(run.info.run_id)

    def _record(self, name: str) -> dict[str, Any]:
        path = folder_of(self._folder, name) / "config.yaml"
        if not path.exists():  # the trial died before it wrote it
            return {}
        try:
            record: dict[str, Any] = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        except yaml.YAMLError as error:
            raise Refused(
                f"{path} is no YAML ({error}); restore it, then run `ssl-sweep sync {self._sweep}`"
            ) from error
        return record

    def _upload(self, name: str, run_id: str, relative: str) -> None:
        folder = folder_of(self._folder, name).resolve()
        path = (folder / relative).resolve()
        if not path.is_relative_to(folder):
            raise Refused(f"artifact {relative!r} lies outside {folder}")
        if not path.is_file():
            log.warning("%s is gone and cannot be shown in MLflow", path)
            return
        shown_in = path.parent.relative_to(folder).as_posix().removeprefix("artifacts").strip("/.")
        self._client.log_artifact(run_id, str(path), shown_in or None)


def runs(sweeps: Sequence[str], tracking_uri: str) -> pd.DataFrame:
    """One row a trial, by choice and seed.

    Columns: trial_id, sweep, choice, seed, state, attempt, reason, message, then parameters (`views.overlay_alpha`, as
    numbers where all are), then the latest value of each metric (`finetune/top1_test`), then start and end (UTC).
    Raises NotRecorded for an unknown sweep.
    """
    client = _client(tracking_uri)
    rows = [_row(sweep, trial) for sweep in sweeps for trial in _trials(client, sweep, tracking_uri)]
    first = ["trial_id", "sweep", "choice", "seed", "state", "attempt", "reason", "message"]
    params = sorted({name for row in rows for name in row["params"]} - set(first))
    metrics = sorted({name for row in rows for name in row["metrics"]})
    columns: dict[str, list[Any]] = {name: [row["tags"].get(name) for row in rows] for name in first}
    columns |= {name: _typed([row["params"].get(name) for row in rows]) for name in params}
    columns |= {name: [row["metrics"].get(name, float("nan")) for row in rows] for name in metrics}
    columns |= {name: [row[name] for row in rows] for name in ("start", "end")}
    return pd.DataFrame(columns)


def spec_of(sweep: str, tracking_uri: str) -> dict[str, Any]:
    """The spec that a sweep's parent run holds."""
    client = _client(tracking_uri)
    parent = _parent(client, sweep, tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            spec: dict[str, Any] = json.loads(
                Path(client.download_artifacts(parent.info.run_id, "spec.json", folder)).read_text()
            )
        except (OSError, MlflowException) as error:
            raise NotRecorded(
                f"sweep {sweep!r} has no spec.json in MLflow at {redacted(tracking_uri)} ({redacted(str(error))}); "
                f"deliver it again with `ssl-sweep sync {sweep}`"
            ) from error
    return spec


def list_sweeps(tracking_uri: str) -> list[str]:
    """The names of the sweeps in MLflow, the newest first."""
    return _names(_client(tracking_uri)) if _has_store(tracking_uri) else []


def _client(tracking_uri: str) -> MlflowClient:
    if not _has_store(tracking_uri):
        raise NotRecorded(
            f"no MLflow store at {redacted(tracking_uri)}; run a sweep first, or name another store by tracking.uri"
        )
    return MlflowClient(tracking_uri)


def _has_store(tracking_uri: str) -> bool:
    # MLflow would create a missing SQLite file and take seconds over it
    file = tracking_uri.removeprefix("sqlite:///")
    return file == tracking_uri or Path(file).exists()


def _is_database(tracking_uri: str) -> bool:
    return re.match(r"(sqlite|postgresql|mysql|mssql)\b", tracking_uri) is not None


def _names(client: MlflowClient) -> list[str]:
    names, token = [], None
    while True:
        page = client.search_experiments(
            filter_string=f"name LIKE '{EXPERIMENT}%'", order_by=["creation_time DESC"], page_token=token
        )
        names += [found.name for found in page]
        token = page.token
        if not token:
            return [name.removeprefix(EXPERIMENT) for name in names if name.startswith(EXPERIMENT)]


def _parent(client: MlflowClient, sweep: str, tracking_uri: str) -> Run:
    """The newest parent run: an older one is of a sweep of this name whose storage folder was another."""
    experiment = client.get_experiment_by_name(EXPERIMENT + sweep)
    ids = [] if experiment is None else [experiment.experiment_id]
    found = ids and client.search_runs(ids, f"{_tag('role')} = 'parent'", order_by=["start_time DESC"], max_results=1)
    if not found:
        names = _names(client)
        near = difflib.get_close_matches(sweep, names, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
        raise NotRecorded(f"no sweep {sweep!r} in MLflow at {redacted(tracking_uri)}; {remedy}")
    return found[0]


class _Trial(NamedTuple):
    """A child run as it is stored."""

    status: str
    start_ms: int
    end_ms: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def _trials(client: MlflowClient, sweep: str, tracking_uri: str) -> list[_Trial]:
    parent = _parent(client, sweep, tracking_uri).info
    if _is_database(tracking_uri):
        found = _trials_by_sql(tracking_uri, parent.run_id)
    else:
        found = _trials_by_api(client, parent.experiment_id, parent.run_id)
    return sorted(found, key=lambda trial: [int(trial.tags.get(PREFIX + key, -1)) for key in ("choice", "seed")])


def _trials_by_api(client: MlflowClient, experiment_id: str, parent: str) -> list[_Trial]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{PARENT}` = '{parent}'", max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return [_Trial(run.info.status, run.info.start_time, run.info.end_time, *_data(run)) for run in found]


def _data(run: Run) -> tuple[dict[str, str], dict[str, float], dict[str, str]]:
    return run.data.params, run.data.metrics, run.data.tags


def _trials_by_sql(tracking_uri: str, parent: str) -> list[_Trial]:
    """The same from MLflow's tables: seven times as fast as its search, which makes an object of every value."""
    children: Select[tuple[str]] = select(SqlTag.run_uuid).where(SqlTag.key == PARENT, SqlTag.value == parent)
    active = and_(SqlRun.run_uuid.in_(children), SqlRun.lifecycle_stage == "active")
    engine = create_engine(tracking_uri)
    with engine.connect() as connection:
        found = {
            run_id: _Trial(status, start, end, {}, {}, {})
            for run_id, status, start, end in connection.execute(
                select(SqlRun.run_uuid, SqlRun.status, SqlRun.start_time, SqlRun.end_time).where(active)
            )
        }
        for run_id, key, value in connection.execute(_columns(SqlParam).join(SqlRun).where(active)):
            found[run_id].params[key] = value
        for run_id, key, value in connection.execute(_columns(SqlTag).join(SqlRun).where(active)):
            found[run_id].tags[key] = value
        nan = SqlLatestMetric.is_nan
        for run_id, key, value, is_nan in connection.execute(
            _columns(SqlLatestMetric).add_columns(nan).join(SqlRun).where(active)
        ):
            found[run_id].metrics[key] = float("nan") if is_nan else value
    engine.dispose()
    return list(found.values())


def _columns(table: Any) -> Select[Any]:
    return select(table.run_uuid, table.key, table.value)


def _row(sweep: str, trial: _Trial) -> dict[str, Any]:
    tags = {key.removeprefix(PREFIX): value for key, value in trial.tags.items() if key.startswith(PREFIX)}
    numbers = {key: int(tags[key]) for key in ("choice", "seed", "attempt") if key in tags}
    ended = trial.end_ms if trial.status != "RUNNING" else None  # of an earlier attempt
    return {
        "tags": {"state": "CREATED", **tags, **numbers, "sweep": sweep},
        "params": trial.params,
        "metrics": {name: _unclipped(value) for name, value in trial.metrics.items()},
        "start": pd.Timestamp(trial.start_ms, unit="ms", tz="UTC"),
        "end": pd.NaT if ended is None else pd.Timestamp(ended, unit="ms", tz="UTC"),
    }


def _typed(written: list[str | None]) -> list[Any]:
    try:
        return [None if value is None else value_of(value) for value in written]
    except ValueError:
        return written


def _unclipped(value: float) -> float:
    return value if abs(value) < LARGEST_FLOAT else float("inf") * value


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise Refused(str(error)) from error
        raise


def _identity(path: Path) -> str:
    """An id for life of a sweep's folder: a new sweep of an old name must not go into the old one's runs."""
    if not path.exists() or not path.read_text():
        path.write_text(uuid.uuid4().hex)
    return path.read_text()


def _tag(name: str) -> str:
    return f"tags.`{PREFIX}{name}`"


def _key(name: str) -> str:
    """The name as MLflow takes it."""
    return re.sub(r"/{2,}", "/", re.sub(r"[^/\w.\- :]", "_", name)).strip("/.")


def _clean(value: str) -> str:
    return value.replace("\0", "")[:MAX_TAG]  # PostgreSQL takes no NUL
