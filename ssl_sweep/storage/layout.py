"""Where things lie: one folder of sweeps, with the ledger and the MLflow store that they share by default."""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_sweep.errors import UserError

if TYPE_CHECKING:
    from ssl_sweep.storage.bucket import Bucket

# of libpq: without them a connection to a machine that has gone silent is waited for by the hour; while a question is
# unanswered there are no keepalives, and the limit in milliseconds holds
POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


class NoFolder(UserError, ValueError):  # noqa: N818 - says what it means
    """Sweeps cannot lie there, or not without more being said."""


@dataclass(frozen=True)
class Storage:
    """A folder of sweeps, from `--storage`, SSL_SWEEP_STORAGE or `./runs`; of a bucket, this machine's copy."""

    root: Path
    url: str | None = None  # s3://BUCKET/PREFIX, of which the folder is a copy: see `mirror`

    @classmethod
    def default(cls) -> "Storage":
        return cls.at(os.environ.get("SSL_SWEEP_STORAGE", "runs"))

    @classmethod
    def at(cls, place: str | Path) -> "Storage":
        """The storage in a folder, or in a bucket: s3://BUCKET/PREFIX.

        Raises:
            NoFolder: it is another kind of store.
        """
        if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(place)):
            scheme, rest = found.groups()
            if scheme != "s3":
                raise NoFolder(
                    f"--storage, SSL_SWEEP_STORAGE: {scheme}://{rest} is neither a folder nor s3://BUCKET/PREFIX; name "
                    "a folder that all nodes see, or a bucket by S3's protocol with AWS_ENDPOINT_URL its server"
                )
            url = f"s3://{rest.rstrip('/')}"
            return cls(cache_folder() / "storage" / hashlib.sha256(url.encode()).hexdigest()[:16] / "sweeps", url)
        return cls(Path(place).resolve())

    @property
    def place(self) -> str:
        """What `--storage` takes."""
        return self.url or str(self.root)

    @cached_property
    def bucket(self) -> "Bucket | None":
        """The bucket that it lies in."""
        if self.url is None:
            return None
        from ssl_sweep.storage.bucket import Bucket

        return Bucket(self.url)

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

    def _sqlite(self, name: str, variable: str) -> str:
        """Raises NoFolder: in a bucket there is no SQLite, and in this machine's copy no other machine would see it."""
        if self.url is not None:
            example = "http://HOST:5000" if name == "mlflow" else "postgresql://USER@HOST/DATABASE"
            raise NoFolder(f"{self.url} keeps files, no database: set {variable} to a server, such as {example}")
        return f"sqlite:///{self.root / f'{name}.db'}"

    def sweep(self, name: str) -> Path:
        """A sweep's folder."""
        return self.root / name

    def trial(self, sweep: str, trial_id: str) -> Path:
        """A trial's folder."""
        return self.sweep(sweep) / "trials" / trial_id


def cache_folder() -> Path:
    """Where a node keeps decoded data: SSL_SWEEP_CACHE, or the user's cache folder."""
    return Path(os.environ.get("SSL_SWEEP_CACHE", "~/.cache/ssl_sweep")).expanduser()
