"""Sweeps in a bucket: each machine has a copy, fetches what others wrote, and sends what it writes.

Attempts work in folders of their own (`cluster/trial_sync.py`). An index beside each sweep says what this copy and the
bucket had in common when they were last compared; a file lock keeps the processes of this machine apart.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from ssl_sweep.storage.bucket import Bucket, BucketError
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage, StorageError
from ssl_sweep.storage.stored_spec import stored_spec
from ssl_sweep.trialdir.atomic import replacing
from ssl_sweep.trialdir.events import BestTrialChosen
from ssl_sweep.trialdir.journal import JOURNAL, read
from ssl_sweep.trialdir.record import RECORD

SWEEP_FILES = r"/([^/]+|artifacts/[^/]+)"
TRIAL_FILES = rf"/trials/[^/]+/({re.escape(JOURNAL)}|{re.escape(RECORD)}|artifacts/.+)"
TRIAL_FILES_AND_ENCODER = rf"/trials/[^/]+/({re.escape(JOURNAL)}|{re.escape(RECORD)}|artifacts/.+|encoder\.pt)"
SEND_ORDER = {JOURNAL: 1, "recorded.json": 2}  # these follow the files that they name
READ_BY_HOUSEKEEPING = {"stages.json", "key"}  # of other files it needs the size only
Index = dict[str, list[Any]]  # key -> [ETag of the object, time and size of the file here]


@dataclass(frozen=True)
class BucketStorage(Storage):
    """This machine's copy of s3://BUCKET/PREFIX.

    patience_s: how long to wait for a bucket that cannot be reached, before `check` has found it.
    """

    url: str
    patience_s: float = field(default=0.0, compare=False)

    @cached_property
    def bucket(self) -> Bucket:
        """The bucket's client: creating it takes a second."""
        bucket = Bucket(self.url)
        bucket.patience_s = self.patience_s
        return bucket

    @property
    def place(self) -> str:
        return self.url

    def shared_stages(self, name: str) -> None:
        """None: each trial makes its own pretraining, and shares it when it is finished."""

    def check_writable(self) -> None:
        self.bucket.check()

    def check(self, tracking_uri: str) -> None:
        if not re.match(r"https?://", tracking_uri):
            raise BucketError(
                f"with {self.url} for storage, MLflow must be a server that all machines reach: set "
                "MLFLOW_TRACKING_URI, or tracking.uri in the spec, to http://HOST:5000 (mlflow server "
                "--artifacts-destination s3://BUCKET/PREFIX)"
            )
        self.bucket.check()

    def take_over(self, name: str) -> None:
        self._pull(name, "/", SWEEP_FILES)
        self.pull(name)

    def pull(self, name: str, *, encoders: bool = False) -> None:
        self._pull(name, "/trials/", TRIAL_FILES_AND_ENCODER if encoders else TRIAL_FILES)

    def push(self, name: str) -> None:
        folder = self.sweep(name)
        with self._index(name) as index:
            files = [path for path in (*folder.glob("[!.]*"), *folder.glob("artifacts/[!.]*")) if path.is_file()]
            files = [path for path in files if path.suffix not in (".partial", ".lock")]
            files.sort(key=lambda path: SEND_ORDER.get(path.name, 0))
            stamps = {path: _stamp(path) for path in files}
            changed = [path for path in files if index.get(self._key(path), [""])[1:] != stamps[path]]
            # the journal is read first and sent last: the files that it names are in the bucket by then
            contents = [(path, path.read_bytes()) for path in reversed(changed)]
            for path, content in reversed(contents):
                key = self._key(path)
                index[key] = [self.bucket.put(key, content), *stamps[path]]

    def fetch(self, *paths: Path) -> None:
        if paths:
            with self._lock(paths[0]):
                self._download(paths)

    def send(self, path: Path) -> None:
        self.bucket.put(self._key(path), path.read_bytes())

    def drop(self, path: Path) -> None:
        self.bucket.delete([self._key(path)])

    @contextmanager
    def synced_journal(self, folder: Path) -> Iterator[None]:
        paths = [folder / name for name in (RECORD, JOURNAL)]
        with self._lock(folder):
            self._download(paths)
            before = [_stamp(path) for path in paths]
            yield
            for path, stamp in zip(paths, before, strict=True):
                if path.exists() and _stamp(path) != stamp:
                    self.send(path)

    def presence(self, folder: Path) -> Callable[[Path], bool]:
        objects = self.bucket.list_objects(self._key(folder) + "/")
        return lambda path: self._key(path) in objects

    @contextmanager
    def sparse_copy(self, name: str) -> Iterator[Storage]:
        with TemporaryDirectory() as folder:
            copy, objects = FolderStorage(Path(folder)), self.bucket.list_objects(f"{name}/")
            for key, info in objects.items():
                path = copy.root / key
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    file.truncate(info.size)  # a sparse file: it takes no room
            small = [key for key in objects if Path(key).name in READ_BY_HOUSEKEEPING]
            self.bucket.map(lambda key: self.bucket.download(key, copy.root / key), small)
            yield copy
            self.bucket.delete(key for key in objects if not (copy.root / key).exists())

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Storage]:
        with TemporaryDirectory() as folder:
            copy = BucketStorage(Path(folder), self.url)
            copy._pull(name, "/", SWEEP_FILES)
            tracking = (stored_spec(copy.sweep(name)) or {}).get("tracking") or {}
            models = tracking.get("models", "none")
            copy.pull(name, encoders=models == "all")
            best = {event.trial for event in read(copy.sweep(name))[0] if isinstance(event, BestTrialChosen)}
            copy.fetch(*(copy.trial(name, trial) / "encoder.pt" for trial in best))
            yield copy

    def _sqlite(self, name: str, variable: str) -> str:
        example = "http://HOST:5000" if name == "mlflow" else "postgresql://USER@HOST/DATABASE"
        raise StorageError(f"{self.url} keeps files, no database: set {variable} to a server, such as {example}")

    def _download(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if not self.bucket.download(self._key(path), path):
                path.unlink(missing_ok=True)

    def _pull(self, name: str, under: str, wanted: str) -> None:
        """Make the wanted files equal to their objects; journals last, because they name the others."""
        pattern = re.compile(re.escape(name) + wanted)
        with self._index(name) as index:
            listing = self.bucket.list_objects(name + under)
            objects = {key: info for key, info in listing.items() if pattern.fullmatch(key)}
            for key in [key for key in index if pattern.fullmatch(key) and key not in objects]:
                (self.root / key).unlink(missing_ok=True)
                del index[key]
            stale = [key for key, info in objects.items() if index.get(key) != [info.etag, *_stamp(self.root / key)]]

            def download(key: str) -> None:
                path = self.root / key
                if path.suffix == ".pt":
                    self.bucket.download(key, path)
                elif (content := self.bucket.get(key)) is not None:
                    with replacing(path) as partial:
                        # a journal may have grown since it was listed, and name files that are not here yet
                        partial.write_bytes(content[: objects[key].size] if path.name == JOURNAL else content)

            journals = {key for key in stale if key.endswith(f"/{JOURNAL}")}
            for keys in ([key for key in stale if key not in journals], sorted(journals)):
                self.bucket.map(download, keys)
                index.update({key: [objects[key].etag, *_stamp(self.root / key)] for key in keys})

    @contextmanager
    def _index(self, name: str) -> Iterator[Index]:
        """The index of a sweep, to be changed by the block; one process at a time."""
        path = self.sweep(name) / ".index.json"
        with self._lock(path):
            try:
                index: Index = json.loads(path.read_text())
            except (FileNotFoundError, ValueError):
                index = {}
            before = dict(index)
            try:
                yield index
            finally:
                if index != before:
                    with replacing(path) as partial:
                        partial.write_text(json.dumps(index))

    def _lock(self, path: Path) -> FileLock:
        """The lock of the sweep that the path belongs to."""
        sweep = self.root / path.relative_to(self.root).parts[0]
        sweep.mkdir(parents=True, exist_ok=True)
        return FileLock(sweep / ".index.lock")

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _stamp(path: Path) -> list[int]:
    """Time and size of a file; empty where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_mtime_ns, status.st_size]
