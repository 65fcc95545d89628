"""This machine's copy of sweeps that lie in a bucket: what others wrote is brought here, what is written here is sent.

Drivers and commands read and write files of `Storage.root`, as they do where that is the storage itself; there each of
these functions does nothing. Attempts work in folders of their own (`carried`). What this copy and the bucket had in
common when they last met stands in an index beside each sweep; a file lock keeps the processes of this machine apart.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from filelock import FileLock

from ssl_sweep.storage.bucket import Bucket, BucketError
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trialdir.atomic import replacing
from ssl_sweep.trialdir.events import BestTrialChosen
from ssl_sweep.trialdir.journal import JOURNAL, read

OF_THE_SWEEP = r"/([^/]+|artifacts/[^/]+)"
OF_A_TRIAL = rf"/trials/[^/]+/({re.escape(JOURNAL)}|config\.yaml|artifacts/.+)"
WITH_ENCODER = rf"/trials/[^/]+/({re.escape(JOURNAL)}|config\.yaml|artifacts/.+|encoder\.pt)"
LAST = {JOURNAL: 1, "recorded.json": 2}  # sent after what they name
READ = {"stages.json", "key"}  # what housekeeping reads, and does not only count
Index = dict[str, list[Any]]  # by key: the ETag there; time and size of the file here


def check(storage: Storage, tracking_uri: str) -> None:
    """Refuse a bucket that takes nothing, before anything runs; from then on one that is away is waited for.

    Raises:
        BucketError: it does not, or MLflow would keep files in this machine's copy.
    """
    if storage.bucket is None:
        return
    if not re.match(r"https?://", tracking_uri):
        raise BucketError(
            f"with {storage.place} for storage, MLflow must be a server that all machines reach: set "
            "MLFLOW_TRACKING_URI, or tracking.uri in the spec, to http://HOST:5000 (mlflow server "
            "--artifacts-destination s3://BUCKET/PREFIX)"
        )
    storage.bucket.check()


def take_over(storage: Storage, name: str) -> None:
    """Have all that the sweep's last driver left here; to be called by who is its only driver."""
    if storage.bucket is not None:
        _pull(storage, name, "/", OF_THE_SWEEP)
        pull(storage, name)


def exchange(storage: Storage, name: str, *, encoders: bool = False) -> None:
    """Bring what trials wrote here, and send what the driver wrote."""
    pull(storage, name, encoders=encoders)
    push(storage, name)


def pull(storage: Storage, name: str, *, encoders: bool = False) -> None:
    """Bring what trials wrote here: configs, journals, artifacts, and encoders where they are wanted."""
    if storage.bucket is not None:
        _pull(storage, name, "/trials/", WITH_ENCODER if encoders else OF_A_TRIAL)


def push(storage: Storage, name: str) -> None:
    """Send what the driver wrote of the sweep as a whole: its journal last, when what that names is there."""
    if storage.bucket is None:
        return
    folder = storage.sweep(name)
    with _index(storage, name) as index:
        files = [path for path in (*folder.glob("[!.]*"), *folder.glob("artifacts/[!.]*")) if path.is_file()]
        files = [path for path in files if path.suffix not in (".partial", ".lock")]
        files.sort(key=lambda path: LAST.get(path.name, 0))
        stamps = {path: _stamp(path) for path in files}
        changed = [path for path in files if index.get(_key(storage, path), [""])[1:] != stamps[path]]
        read = [(path, path.read_bytes()) for path in reversed(changed)]
        for path, content in reversed(read):
            key = _key(storage, path)
            index[key] = [storage.bucket.put(key, content), *stamps[path]]


def fetch(storage: Storage, *paths: Path) -> None:
    """Bring these files here; those that are not in the bucket go."""
    if storage.bucket is None or not paths:
        return
    with _lock(storage, paths[0]):
        for path in paths:
            if not storage.bucket.download(_key(storage, path), path):
                path.unlink(missing_ok=True)


def send(storage: Storage, path: Path) -> None:
    """Send this file."""
    if storage.bucket is not None:
        storage.bucket.put(_key(storage, path), path.read_bytes())


def drop(storage: Storage, path: Path) -> None:
    """Remove this file from the bucket."""
    if storage.bucket is not None:
        storage.bucket.delete([_key(storage, path)])


@contextmanager
def at_hand(storage: Storage, folder: Path) -> Iterator[None]:
    """Have a trial's journal and config here as they are in the bucket, and what the block writes to them there.

    For who writes in the place of an attempt that has died.
    """
    if storage.bucket is None:
        yield
        return
    paths = [folder / name for name in ("config.yaml", JOURNAL)]
    with _lock(storage, folder):
        for path in paths:
            if not storage.bucket.download(_key(storage, path), path):
                path.unlink(missing_ok=True)
        before = [_stamp(path) for path in paths]
        yield
        for path, stamp in zip(paths, before, strict=True):
            if path.exists() and _stamp(path) != stamp:
                send(storage, path)


def presence(storage: Storage, folder: Path) -> Callable[[Path], bool]:
    """Tells whether a file of this folder is there; in a bucket, whether it was when it was last listed."""
    if storage.bucket is None:
        return Path.exists
    listed = storage.bucket.listed(_key(storage, folder) + "/")
    return lambda path: _key(storage, path) in listed


@contextmanager
def hollow(storage: Storage, name: str) -> Iterator[Storage]:
    """The sweep as a folder whose files have their names and sizes, and take no room; what is removed there is removed.

    For housekeeping, which reads only the smallest of them.
    """
    if storage.bucket is None:
        yield storage
        return
    with TemporaryDirectory() as folder:
        shape, listed = Storage(Path(folder)), storage.bucket.listed(f"{name}/")
        for key, entry in listed.items():
            path = shape.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(entry.size)  # a file of nothing but a hole
        small = [key for key in listed if Path(key).name in READ]
        storage.bucket.each(partial(_download, storage.bucket, shape.root), small)
        yield shape
        storage.bucket.delete(key for key in listed if not (shape.root / key).exists())


@contextmanager
def snapshot(storage: Storage, name: str) -> Iterator[Storage]:
    """All that MLflow shows of a sweep in a folder of its own: a driver may be at work on this machine's copy."""
    if storage.bucket is None:
        yield storage
        return
    with TemporaryDirectory() as folder:
        copy = Storage(Path(folder), storage.url)
        _pull(copy, name, "/", OF_THE_SWEEP)
        stored = copy.sweep(name) / "spec.yaml"
        models = yaml.safe_load(stored.read_text())["tracking"]["models"] if stored.exists() else "none"
        pull(copy, name, encoders=models == "all")
        best = {event.trial for event in read(copy.sweep(name))[0] if isinstance(event, BestTrialChosen)}
        fetch(copy, *(copy.trial(name, trial) / "encoder.pt" for trial in best))
        yield copy


def _download(bucket: Bucket, root: Path, key: str) -> None:
    bucket.download(key, root / key)


def _pull(storage: Storage, name: str, under: str, wanted: str) -> None:
    """Make the files that are wanted here what they are in the bucket, journals last: they name the others."""
    bucket, ours = _bucket(storage), re.compile(re.escape(name) + wanted)
    with _index(storage, name) as index:
        found = {key: each for key, each in bucket.listed(name + under).items() if ours.fullmatch(key)}
        for key in [key for key in index if ours.fullmatch(key) and key not in found]:
            (storage.root / key).unlink(missing_ok=True)
            del index[key]
        stale = [key for key, each in found.items() if index.get(key) != [each.etag, *_stamp(storage.root / key)]]

        def bring(key: str) -> None:
            path = storage.root / key
            if path.suffix == ".pt":
                bucket.download(key, path)
            elif (content := bucket.get(key)) is not None:
                with replacing(path) as copy:  # a journal may have grown since, and name what is not here yet
                    copy.write_bytes(content[: found[key].size] if path.name == JOURNAL else content)

        journals = [key for key in stale if key.endswith(f"/{JOURNAL}")]
        for some in ([key for key in stale if key not in set(journals)], journals):
            bucket.each(bring, some)
            index.update({key: [found[key].etag, *_stamp(storage.root / key)] for key in some})


@contextmanager
def _index(storage: Storage, name: str) -> Iterator[Index]:
    """What this machine's copy of a sweep and the bucket had in common, to be changed; one process at a time."""
    path = storage.sweep(name) / ".index.json"
    with _lock(storage, path):
        try:
            index: Index = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            index = {}
        before = dict(index)
        try:
            yield index
        finally:
            if index != before:
                with replacing(path) as copy:
                    copy.write_text(json.dumps(index))


def _lock(storage: Storage, path: Path) -> FileLock:
    """Of the sweep that the path is in."""
    sweep = storage.root / path.relative_to(storage.root).parts[0]
    sweep.mkdir(parents=True, exist_ok=True)
    return FileLock(sweep / ".index.lock")


def _bucket(storage: Storage) -> Bucket:
    assert storage.bucket is not None  # noqa: S101 - asked by who calls
    return storage.bucket


def _key(storage: Storage, path: Path) -> str:
    return path.relative_to(storage.root).as_posix()


def _stamp(path: Path) -> list[int]:
    """Of a file that is there; empty where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_mtime_ns, status.st_size]
