"""A storage: one folder of sweeps, with the ledger and the MLflow store that they share by default."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ssl_sweep.errors import UserError

# libpq's limits: without them, a connection to a machine that has gone silent blocks for hours; TCP sends no keepalives
# while a query is unanswered, and tcp_user_timeout (ms) holds
POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


FILES = ("ledger.db", "mlflow.db", "service.db", "mlartifacts", "storage.json")  # beside the sweeps' folders


class StorageError(UserError, ValueError):
    """Sweeps cannot be stored there, or a setting is missing; the message names it."""


@dataclass(frozen=True)
class Storage(ABC):
    """A folder of sweeps, from `--storage`, SSL_SWEEP_STORAGE or `./runs`; `open.py` chooses the class.

    Drivers and commands read and write files under `root`. The methods that transfer files do nothing in a folder that
    all nodes see.
    """

    root: Path

    @property
    @abstractmethod
    def place(self) -> str:
        """What `--storage` takes."""

    @property
    def ledger_url(self) -> str:
        """Database of the Optuna studies: SSL_SWEEP_LEDGER, or SQLite in the folder."""
        return os.environ.get("SSL_SWEEP_LEDGER") or self._sqlite("ledger", "SSL_SWEEP_LEDGER")

    @property
    def tracking_uri(self) -> str:
        """Default MLflow store: MLFLOW_TRACKING_URI, or SQLite in the folder."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self._sqlite("mlflow", "MLFLOW_TRACKING_URI")

    @property
    def service_url(self) -> str:
        """Database of the service: SSL_SWEEP_SERVICE_DB, or SQLite in the folder."""
        return os.environ.get("SSL_SWEEP_SERVICE_DB") or self._sqlite("service", "SSL_SWEEP_SERVICE_DB")

    def sweep(self, name: str) -> Path:
        """A sweep's folder."""
        return self.root / name

    def trial(self, sweep: str, trial_id: str) -> Path:
        """A trial's folder."""
        return self.sweep(sweep) / "trials" / trial_id

    @abstractmethod
    def shared_stages(self, name: str) -> Path | None:
        """Where the running trials of a sweep share pretrainings; None where files cannot be locked."""

    @abstractmethod
    def check_writable(self) -> None:
        """Write a file and remove it.

        Raises:
            OSError, BucketError: this fails.
        """

    @abstractmethod
    def check(self, tracking_uri: str) -> None:
        """Check, before anything runs, that a sweep can be stored here.

        Raises:
            StorageError: the folder cannot be written.
            BucketError: the bucket refuses writes, or MLflow would keep files in this machine's copy.
        """

    @abstractmethod
    def take_over(self, name: str) -> None:
        """Fetch what the sweep's last driver wrote. Only the sweep's only driver may call it."""

    @abstractmethod
    def pull(self, name: str, *, encoders: bool = False) -> None:
        """Fetch what trials wrote: configs, journals, artifacts, and with `encoders` their encoders."""

    @abstractmethod
    def push(self, name: str) -> None:
        """Send what the driver wrote about the sweep as a whole."""

    def exchange(self, name: str, *, encoders: bool = False) -> None:
        """Fetch what trials wrote, then send what the driver wrote."""
        self.pull(name, encoders=encoders)
        self.push(name)

    @abstractmethod
    def fetch(self, *paths: Path) -> None:
        """Fetch these files; remove those that do not exist in the bucket."""

    @abstractmethod
    def send(self, path: Path) -> None:
        """Send this file."""

    @abstractmethod
    def drop(self, path: Path) -> None:
        """Remove this file from the bucket; the file here stays."""

    @abstractmethod
    def synced_journal(self, folder: Path) -> AbstractContextManager[None]:
        """Fetch a trial's journal and config; when the block ends, send what it has changed.

        For whoever writes on behalf of an attempt that has died.
        """

    @abstractmethod
    def presence(self, folder: Path) -> Callable[[Path], bool]:
        """A test whether a file of this folder exists; in a bucket, as of now."""

    @abstractmethod
    def sparse_copy(self, name: str) -> AbstractContextManager["Storage"]:
        """The sweep in a folder whose files have their names and sizes, but take no room.

        Files that the block removes are removed from the storage. Housekeeping, which uses it, reads only the smallest
        files: these have their content.
        """

    @abstractmethod
    def snapshot(self, name: str) -> AbstractContextManager["Storage"]:
        """What MLflow shows of a sweep, in a folder of its own: a driver may be using this machine's copy."""

    @abstractmethod
    def _sqlite(self, name: str, variable: str) -> str:
        """URL of an SQLite file in the folder, for which `variable` is not set.

        Raises:
            StorageError: a bucket holds no databases.
        """


def cache_folder() -> Path:
    """Where a node keeps decoded data: SSL_SWEEP_CACHE, or the user's cache folder."""
    return Path(os.path.expanduser(os.environ.get("SSL_SWEEP_CACHE", "~/.cache/ssl_sweep")))
