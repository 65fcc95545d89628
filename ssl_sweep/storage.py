"""Where things lie: one folder of sweeps, with the ledger and the MLflow store that they share by default."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

# of libpq: without them a connection to a machine that has gone silent is waited for by the hour; while a question is
# unanswered there are no keepalives, and the limit in milliseconds holds
POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


class NoFolder(ValueError):  # noqa: N818 - says what it means
    """Sweeps cannot lie there."""


@dataclass(frozen=True)
class Storage:
    """A folder of sweeps, from `--storage`, SSL_SWEEP_STORAGE or `./runs`."""

    root: Path

    @classmethod
    def default(cls) -> "Storage":
        return cls.at(os.environ.get("SSL_SWEEP_STORAGE", "runs"))

    @classmethod
    def at(cls, place: str | Path) -> "Storage":
        """The storage in a folder.

        Raises:
            NoFolder: it is an object store. Journals are appended to and followed, shared pretrainings are locked, and
                what a trial is asked is read after each report: files do that, objects do not.
        """
        if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(place)):
            scheme, rest = found.groups()
            raise NoFolder(
                f"--storage, SSL_SWEEP_STORAGE: {scheme}://{rest} is no folder, and trials append to files and lock "
                "them; name a folder that all nodes see (NFS, Lustre, or JuiceFS, which keeps its data in a bucket), "
                "and have MLflow keep the artifacts there: mlflow server --artifacts-destination s3://BUCKET/PREFIX"
            )
        return cls(Path(place).resolve())

    @property
    def ledger_url(self) -> str:
        """Database of the Optuna studies: SSL_SWEEP_LEDGER, or SQLite in the folder."""
        return os.environ.get("SSL_SWEEP_LEDGER") or f"sqlite:///{self.root / 'ledger.db'}"

    @property
    def tracking_uri(self) -> str:
        """Default MLflow store: MLFLOW_TRACKING_URI, or SQLite in the folder."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def service_url(self) -> str:
        """Database of the service: SSL_SWEEP_SERVICE_DB, or SQLite in the folder."""
        return os.environ.get("SSL_SWEEP_SERVICE_DB") or f"sqlite:///{self.root / 'service.db'}"

    def sweep(self, name: str) -> Path:
        """A sweep's folder."""
        return self.root / name

    def trial(self, sweep: str, trial_id: str) -> Path:
        """A trial's folder."""
        return self.sweep(sweep) / "trials" / trial_id


def cache_folder() -> Path:
    """Where a node keeps decoded data: SSL_SWEEP_CACHE, or the user's cache folder."""
    return Path(os.environ.get("SSL_SWEEP_CACHE", "~/.cache/ssl_sweep")).expanduser()


def redacted(message: str) -> str:
    """A URI, or a message that quotes some, without passwords and tokens."""
    message = re.sub(r"(://[^:/\s]*):[^/\s]+@", r"\1:***@", message)
    return re.sub(r"([?&][^=&\s]*(?:password|token|secret)[^=&\s]*=)[^&\s]+", r"\1***", message, flags=re.IGNORECASE)
