"""Writes a sweep to MLflow: an experiment `ssl_sweep/NAME` with a parent run, and a child run per trial.

Every write may be repeated: runs are searched by their tags before they are created, parameters keep their values, and
MLflow stores a metric with the same key, value, step and time as one row. So MLflow may be slow, down, or rebuilt.
"""

import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunInfo, RunTag
from mlflow.exceptions import MlflowException

from ssl_sweep.errors import UserError
from ssl_sweep.tracking.locations import FOLDER, Files, is_own, located, mend_locations, place_run
from ssl_sweep.tracking.only_run import only_run
from ssl_sweep.tracking.spool import SWEEP, folder_of
from ssl_sweep.tracking.store import EXPERIMENT, MAX_POINTS, PARENT, MlflowRejectedError, is_database, tag_filter
from ssl_sweep.tracking.transcript import (
    EXACT,
    PREFIX,
    Update,
    exact_parameters,
    knob_numbers,
    labels,
    parameters,
    run_name,
    text,
)
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.journal import MAX_LINE_BYTES, read
from ssl_sweep.trialdir.locks import briefly_locked
from ssl_sweep.trialdir.record import RECORD, TrialRecord

MAX_PARAM, MAX_TAG = 6_000, 8_000  # characters; MLflow's limits
MAX_PARAMS = 100  # in one batch
LOCK_TIMEOUT_S = 60.0
SWEEP_ID = "sweep_id"  # the file's name
TITLE = "mlflow.runName"
MAX_SEARCHED = 50  # trials whose runs are searched for a lost id
log = logging.getLogger(__name__)


class RunDeletedError(UserError):
    """A run that is written to has been deleted in MLflow."""


class SweepRuns:
    """The runs of one sweep: finds or creates them, and writes to them. `name`: a trial's id, or `SWEEP`."""

    def __init__(self, sweep: str, folder: Path, tracking_uri: str) -> None:
        self._sweep, self._folder, self._uri = sweep, folder, tracking_uri
        self._root = folder.parent.resolve() if is_database(tracking_uri) else None
        self._alone = partial(briefly_locked, folder.parent / ".mlflow.lock", LOCK_TIMEOUT_S)
        with self._alone():  # two sweeps must not create the store's tables at once
            self._client = MlflowClient(tracking_uri)
            self._files = Files(self._client, self._root)
            self._experiment_id = self._experiment()
            self._sweep_id = read_sweep_id(folder) or self._find_sweep_id() or uuid.uuid4().hex
            write_sweep_id(folder, self._sweep_id)
            if self._root and not is_own(tracking_uri, self._root):
                mend_locations(tracking_uri, self._root, self._sweep_id)
        self._known: dict[str, str] = {}
        self.parent, _ = self.run(SWEEP)

    def run(self, name: str) -> tuple[str, bool]:
        """The id of a run, and whether it had to be created."""
        if name in self._known:
            return self._known[name], False
        with self._alone(), _rejections():
            existing = self._find(name)
            self._known[name] = existing or self._create(name)
        return self._known[name], existing is None

    def discard(self, name: str) -> None:
        """Delete a trial's runs, which MLflow keeps for `mlflow gc`."""
        with self._alone():
            for run in self._client.search_runs([self._experiment_id], self._query(name)):
                self._client.delete_run(run.info.run_id)
        self._known.pop(name, None)

    def log_record(self, name: str, run_id: str) -> bool:
        """Log a trial's identity: every resolved value as a parameter, its config file, tags, and knobs as metrics.

        Returns whether the trial has its record. Raises RunDeletedError, as all that write do: the run is deleted.
        """
        if name == SWEEP:
            return True
        record = self._record(name)
        with self._writing(run_id):
            run = self._client.get_run(run_id)
        values = {valid_name(key): value[:MAX_PARAM] for key, value in parameters(record).items()}
        known = run.data.params
        for key in sorted(key for key, value in known.items() if values.get(key, value) != value):
            log.warning("trial %s: MLflow keeps the first value of %s, %s; now %s", name, key, known[key], values[key])
        params = [Param(key, value) for key, value in values.items() if key not in known]
        # a run that was begun while the record was lost; else people may have renamed it
        identity = {} if f"{PREFIX}choice" in run.data.tags else _identity(record)
        tags = [RunTag(key, _valid_value(value)) for key, value in {**labels(record), **identity}.items()]
        tags.append(RunTag(PREFIX + EXACT, exact_parameters(record, MAX_TAG)))
        tags.append(RunTag(PARENT, self.parent))  # for a parent that was deleted and created again
        # at the time of the run's start, so that a repetition is the same row
        numbers = [
            Metric(valid_name(key), value, run.info.start_time, 0) for key, value in knob_numbers(record).items()
        ]
        with self._writing(run_id):
            self._client.log_batch(run_id, metrics=numbers, tags=tags)
            for start in range(0, len(params), MAX_PARAMS):
                self._client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
        self._upload(name, run_id, RECORD)
        return record.choice is not None

    def write(self, name: str, run_id: str, update: Update) -> None:
        """Write an update; may be repeated."""
        points = [Metric(valid_name(point.name), point.value, point.time_ms, point.step) for point in update.points]
        tags = [RunTag(valid_name(key), _valid_value(value)) for key, value in update.tags.items()]
        with self._writing(run_id):
            self._client.log_batch(run_id, metrics=points[:MAX_POINTS], tags=tags)
            for start in range(MAX_POINTS, len(points), MAX_POINTS):
                self._client.log_batch(run_id, metrics=points[start : start + MAX_POINTS])
            for file, content in update.texts.items():
                self._files.log_text(run_id, content, file)
        for path in dict.fromkeys(update.files):
            self._upload(name, run_id, path)
        with self._writing(run_id):
            if update.status == "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            elif update.status is not None:
                self._client.set_terminated(run_id, update.status, update.end_ms)

    def log_model(self, name: str, run_id: str) -> str | None:
        """Log a trial's encoder as a model of its run; returns the model's URI, or None without an encoder."""
        from ssl_sweep.tracking.model import log_model  # imports torch, which a sweep without models does not need here

        with self._writing(run_id):
            return log_model(self._client, self._files, run_id, folder_of(self._folder, name))

    @contextmanager
    def _writing(self, run_id: str) -> Iterator[None]:
        """Tell data that MLflow rejects from a run that takes none, since it is deleted."""
        try:
            with _rejections():
                yield
        except MlflowRejectedError as error:
            if self._client.get_run(run_id).info.lifecycle_stage == "deleted":
                raise RunDeletedError(f"run {run_id} has been deleted in MLflow") from error
            raise
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # `mlflow gc` has removed it
                raise RunDeletedError(f"run {run_id} has been deleted in MLflow") from error
            raise

    def _experiment(self) -> str:
        name = EXPERIMENT + self._sweep
        experiment: Experiment | None = self._client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        location = (self._root / FOLDER).as_uri() if self._root else None  # a server has its own location
        # with this kind MLflow's pages show training runs, not traces
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(name, artifact_location=location, tags=tags))

    def _find(self, name: str) -> str | None:
        record = None if name == SWEEP else self._record(name)
        return only_run(self._client, self._experiment_id, self._query(name), record)

    def _query(self, name: str) -> str:
        role = f"{tag_filter('role')} = 'parent'" if name == SWEEP else f"{tag_filter('trial_id')} = '{name}'"
        return f"{role} and {tag_filter('sweep_id')} = '{self._sweep_id}'"

    def _find_sweep_id(self) -> str | None:
        """The id that the runs of this folder's trials have: trials keep their ids for life, the file may be lost."""
        trials = (path.name for path in (self._folder / "trials").glob("*") if re.fullmatch(r"[\w-]+", path.name))
        for trial in islice(trials, MAX_SEARCHED):
            query = f"{tag_filter('trial_id')} = '{trial}'"
            for run in self._client.search_runs([self._experiment_id], query, max_results=1):
                return str(run.data.tags[f"{PREFIX}sweep_id"])
        return None

    def _create(self, name: str) -> str:
        tags = {"sweep": self._sweep, "sweep_id": self._sweep_id, "role": "parent"}
        title, own = self._sweep, {}
        if name != SWEEP:
            tags |= {"role": "trial", "trial_id": name}
            own = {PARENT: self.parent, **_identity(self._record(name))}
            title = own[TITLE]
        first, _ = read(folder_of(self._folder, name), 0, MAX_LINE_BYTES)
        started = first[0].time if first else time.time()
        prefixed = {PREFIX + key: value for key, value in tags.items()}
        run = self._client.create_run(self._experiment_id, int(started * 1000), prefixed | own, title).info
        self._place(run)
        return str(run.run_id)

    def _place(self, run: RunInfo) -> None:
        """In a database that several storages use, the experiment may lie in another one."""
        if self._root and not is_own(self._uri, self._root):
            here = located(run.artifact_uri, self._root)
            if here != run.artifact_uri:
                place_run(self._uri, run.run_id, here)

    def _record(self, name: str) -> TrialRecord:
        try:
            return TrialRecord.read(folder_of(self._folder, name))
        except FileNotFoundError:  # the trial died before it wrote its record
            return TrialRecord(name)

    def _upload(self, name: str, run_id: str, relative: str) -> None:
        folder = folder_of(self._folder, name).resolve()
        path = (folder / relative).resolve()
        if not path.is_relative_to(folder):
            raise MlflowRejectedError(f"artifact {relative!r} lies outside {folder}")
        if not path.is_file():
            log.warning("%s is gone and cannot be logged to MLflow", path)
            return
        directory = path.parent.relative_to(folder).as_posix().removeprefix("artifacts").strip("/.")
        self._files.log(run_id, path, directory)


@contextmanager
def _rejections() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise MlflowRejectedError(str(error)) from error
        raise


def _identity(record: TrialRecord) -> dict[str, str]:
    """The tags with a trial's choice and seed, and its run's name; a record that was lost has neither."""
    known = {"choice": record.choice, "seed": record.seed}
    tags = {PREFIX + key: text(value) for key, value in known.items() if value is not None}
    return {**tags, TITLE: run_name(record.knobs, record.seed)}


def read_sweep_id(folder: Path) -> str | None:
    """The permanent id of a sweep's folder: a new sweep of an old name must not write to the old runs."""
    try:
        stored = (folder / SWEEP_ID).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    return stored if re.fullmatch("[0-9a-f]{32}", stored) else None  # a cut file is a lost one


def write_sweep_id(folder: Path, sweep_id: str) -> None:
    """Write the id of a sweep's folder, unless it has it already."""
    if read_sweep_id(folder) != sweep_id:
        write_text(folder / SWEEP_ID, sweep_id)


def valid_name(name: str) -> str:
    """A metric's or parameter's name with only characters that MLflow accepts."""
    return re.sub(r"/{2,}", "/", re.sub(r"[^/\w.\- :]", "_", name)).strip("/.")


def _valid_value(value: str) -> str:
    return value.replace("\0", "")[:MAX_TAG]  # PostgreSQL rejects NUL
