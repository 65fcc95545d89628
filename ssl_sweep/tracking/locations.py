"""Where the files of runs and models lie: MLflow stores full paths, which are wrong once a storage has moved.

The files of a database's runs are in the storage's folder `mlartifacts`, wherever the storage is now. Drivers write
there and readers look there first, whatever MLflow has stored; `mend_locations` corrects that, for MLflow's own pages.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun, SqlTag
from sqlalchemy import Connection, create_engine, inspect, select, update

from ssl_sweep.storage.database_urls import sqlite_file
from ssl_sweep.tracking.transcript import PREFIX

FOLDER = "mlartifacts"
LOCK_TIMEOUT_S = 60  # that SQLite waits for another writer
REPOSITORIES = 64  # kept open


class Files:
    """The files of a sweep's runs and models, to be written. root: the storage's; None: MLflow's server has them."""

    def __init__(self, client: MlflowClient, root: Path | None) -> None:
        self._client, self._root = client, root
        self._of_run = lru_cache(REPOSITORIES)(self._open_run)

    def log(self, run_id: str, path: Path, folder: str = "") -> None:
        """Log a file to a folder of a run."""
        files: Any = self._of_run(run_id)  # MLflow's methods have no types
        files.log_artifact(str(path), folder or None)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Log a file of this content to a run."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_text(text, encoding="utf-8")
            self.log(run_id, path)

    def log_model(self, location: str, folder: Path) -> None:
        """Log a folder as the files of a model."""
        files: Any = self._open(location)
        files.log_artifacts(str(folder))

    def _open_run(self, run_id: str) -> ArtifactRepository:
        return self._open(self._client.get_run(run_id).info.artifact_uri)

    def _open(self, location: str) -> ArtifactRepository:
        here = located(location, self._root) if self._root else location
        return get_artifact_repository(here, tracking_uri=self._client.tracking_uri)


def files_to_read(client: MlflowClient, run_id: str) -> ArtifactRepository:
    """The files of a run: beside its SQLite store if they are there, else where MLflow says."""
    location = client.get_run(run_id).info.artifact_uri
    store = sqlite_file(client.tracking_uri) if client.tracking_uri.startswith("sqlite") else None
    if store is not None:
        beside = LocalArtifactRepository(located(location, store.parent))
        if Path(beside.artifact_dir).is_dir():
            return beside
    return get_artifact_repository(location, tracking_uri=client.tracking_uri)


def located(location: str, root: Path) -> str:
    """A stored location for a storage that is at `root` now; that of another store stays."""
    _, folder, rest = location.rpartition(f"/{FOLDER}")
    if not location.startswith("file:") or not folder or rest[:1] not in ("", "/"):
        return location
    return f"{root.as_uri()}/{FOLDER}{rest}"


def mend_locations(tracking_uri: str, root: Path, sweep_id: str | None = None, *, dry: bool = False) -> int:
    """Let the locations in a database lead to the storage at `root`, in one transaction; returns their number.

    Args:
        tracking_uri: of the database.
        root: the storage's folder.
        sweep_id: only the runs and models of this sweep, where others use the database too.
        dry: change nothing.
    """
    with _connection(tracking_uri) as connection:
        if not inspect(connection).has_table(SqlLoggedModel.__tablename__):
            return 0  # MLflow has not made its tables yet, or refuses those of an old version
        mended = 0
        for column, condition in _columns(sweep_id):
            query = select(column).distinct().where(column.like(f"file:%/{FOLDER}%"), *condition)
            for (old,) in connection.execute(query).all():
                new = located(old, root)
                if new != old:
                    change = update(column.class_).where(column == old, *condition).values({column: new})
                    mended += 1 if dry else connection.execute(change).rowcount
        return mended


def is_own(tracking_uri: str, root: Path) -> bool:
    """Whether the database lies in the storage at `root`, so that nobody else uses it."""
    file = sqlite_file(tracking_uri) if tracking_uri.startswith("sqlite") else None
    return file is not None and file.parent.resolve() == root


def place_run(tracking_uri: str, run_id: str, location: str) -> None:
    """Store the location of a run's files."""
    with _connection(tracking_uri) as connection:
        connection.execute(update(SqlRun).where(SqlRun.run_uuid == run_id).values(artifact_uri=location))


def _columns(sweep_id: str | None) -> list[tuple[Any, list[Any]]]:
    """The columns with locations, each with a condition on its rows."""
    if sweep_id is None:
        whole: tuple[Any, ...] = (
            SqlExperiment.artifact_location,
            SqlModelVersion.source,
            SqlModelVersion.storage_location,
        )
        return [(column, []) for column in (*whole, SqlRun.artifact_uri, SqlLoggedModel.artifact_location)]
    runs: Any = select(SqlTag.run_uuid).where(SqlTag.key == f"{PREFIX}sweep_id", SqlTag.value == sweep_id)
    return [
        (SqlRun.artifact_uri, [SqlRun.run_uuid.in_(runs)]),
        (SqlLoggedModel.artifact_location, [SqlLoggedModel.source_run_id.in_(runs)]),
    ]


@contextmanager
def _connection(tracking_uri: str) -> Iterator[Connection]:
    """A transaction."""
    arguments = {"timeout": LOCK_TIMEOUT_S} if tracking_uri.startswith("sqlite") else {}
    engine = create_engine(tracking_uri, connect_args=arguments)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
