"""Syncs a trial's folder with a bucket during an attempt: downloads it to the node, and uploads changes.

A thread uploads changed files every few seconds. The bucket stays consistent whenever the process dies: objects are
atomic, and each is uploaded after those that it depends on. A checkpoint depends on the journal, which holds the
reports of its epochs; the journal on artifacts and encoders; the list of finished stages on all of these; the key file
of a stage on the absence of a checkpoint of other settings. Files are opened in the opposite order: a trial writes
them in this one, so that a file opened later is at least as new.

A finished pretraining is shared with every trial that starts later. Trials that need the same pretraining at the same
time run it each, since waiting would hold their devices; on equal hardware the results are equal to the bit.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ssl_sweep.models.distributed import rank, world_size
from ssl_sweep.storage.bucket import Bucket, BucketError, ObjectInfo
from ssl_sweep.trial.run import encoder_path, is_origin, origin_file
from ssl_sweep.trial.stage_keys import resolve_precision, stage_key
from ssl_sweep.trial.stages import FinishedStages
from ssl_sweep.trialdir.events import PretrainingFinished
from ssl_sweep.trialdir.journal import JOURNAL, read
from ssl_sweep.trialdir.locks import locked
from ssl_sweep.trialdir.record import RECORD, TrialRecord
from ssl_sweep.trialdir.requests import REQUEST_FILE
from ssl_sweep.trialdir.waits import WAITS
from ssl_sweep.trialdir.watchdog import DUMP, HEARTBEAT_FILE

EVERY_S = 2.0  # how much a killed node loses at most, beside the work since its last checkpoint
UPLOAD_ORDER = {
    RECORD: 0,
    "log.txt": 0,
    "encoder.pt": 0,
    JOURNAL: 1,
    "stages.json": 3,
    "key": 4,
}  # artifacts 0, others 2
LOCAL_FILES = {HEARTBEAT_FILE, DUMP, REQUEST_FILE, WAITS, "lock"}  # never uploaded
Stamp = tuple[int, int, int]
log = logging.getLogger(__name__)


class TrialSync:
    """A trial's folder on this node and its objects in the bucket, which no other process writes meanwhile."""

    def __init__(self, bucket: Bucket, key: str, folder: Path) -> None:
        """key: the trial's, SWEEP/trials/ID. folder: its contents are replaced by the bucket's."""
        self.bucket, self.key, self.folder = bucket, key, folder
        self._stages = f"{key.split('/')[0]}/stages"
        self._sent: dict[str, Stamp] = {}
        self._journal: str | None = None  # ETag of the journal as this attempt last read or wrote it
        self._published: set[str] = set()

    def fetch(self, pretraining: str | None = None) -> None:
        """Replace the folder by the bucket's objects, and by the finished pretraining of this key if there is one."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        objects = self._download(f"{self.key}/", self.folder)
        self._sent = {name: _stamp(self.folder / name) for name in self._names()}
        self._journal = objects[f"{self.key}/{JOURNAL}"].etag if f"{self.key}/{JOURNAL}" in objects else None
        if pretraining is None or self._has(pretraining):
            return
        if self.bucket.etag(f"{self._stages}/{pretraining}/{JOURNAL}") is not None:
            shutil.rmtree(self.folder / "stages" / pretraining, ignore_errors=True)
            self._download(f"{self._stages}/{pretraining}/", self.folder / "stages" / pretraining)
            self._published.add(pretraining)

    def push(self) -> None:
        """Upload changed files.

        Raises:
            BucketError: an upload failed, or another attempt at this trial writes to the bucket.
        """
        with ExitStack() as stack:
            names = sorted(self._names(), key=_order, reverse=True)
            changed = {name: file for name in names if (file := self._open(name, stack)) is not None}
            if not changed and not self._gone():
                return
            self._check_ours()
            for name in [name for name in reversed(changed) if _order(name) == 0]:
                self._send(name, *changed[name])
            self._publish()
            for name in [name for name in reversed(changed) if 0 < _order(name) < 4 and self._is_wanted(name)]:
                self._send(name, *changed[name])
            gone = self._gone()
            self.bucket.delete(f"{self.key}/{name}" for name in gone)
            self._sent = {name: stamp for name, stamp in self._sent.items() if name not in gone}
            for name in [name for name in changed if _order(name) == 4]:
                self._send(name, *changed[name])

    def fetch_stop_request(self) -> None:
        """Download the driver's stop request; if the bucket is unreachable, the next report tries again."""
        with suppress(BucketError):  # the sender thread reports it
            self.bucket.download(f"{self.key}/{REQUEST_FILE}", self.folder / REQUEST_FILE, waits=False)

    def _download(self, under: str, folder: Path) -> dict[str, ObjectInfo]:
        objects = self.bucket.list_objects(under)
        self.bucket.map(lambda key: self.bucket.download(key, folder / key.removeprefix(under)), objects)
        return objects

    def _has(self, pretraining: str) -> bool:
        finished = FinishedStages(self.folder / "stages.json").key("pretrain")
        return finished == pretraining and encoder_path(self.folder).exists()

    def _names(self) -> list[str]:
        """The files to upload. Any of them may be removed at any moment."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [name for path in files if self._is_wanted(name := path.relative_to(self.folder).as_posix())]

    def _gone(self) -> set[str]:
        """The uploaded files that the folder no longer has."""
        return {name for name in self._sent if not (self.folder / name).exists() or not self._is_wanted(name)}

    def _is_wanted(self, name: str) -> bool:
        parts = name.split("/")
        if parts[0] == "stages":  # published with its encoder when it is finished
            return parts[-1] not in {*LOCAL_FILES, "encoder.pt"} and parts[1] not in self._published and _is_whole(name)
        return parts[-1] not in LOCAL_FILES and _is_whole(name)

    def _open(self, name: str, stack: ExitStack) -> tuple[BinaryIO | bytes, Stamp] | None:
        """Open a file if it has changed. A journal is read at once, since it grows; others are replaced as a whole."""
        try:
            file = stack.enter_context((self.folder / name).open("rb"))
        except FileNotFoundError:
            return None
        stamp = _stamp(file.fileno())
        if self._sent.get(name) == stamp:
            return None
        return (file if name.endswith(".pt") else file.read()), stamp

    def _send(self, name: str, content: BinaryIO | bytes, stamp: Stamp) -> None:
        etag = self.bucket.put(f"{self.key}/{name}", content)
        self._sent[name] = stamp
        if name == JOURNAL:
            self._journal = etag

    def _check_ours(self) -> None:
        """Check that no other attempt writes this trial. Not every store has conditional writes: a gap remains."""
        etag = self.bucket.etag(f"{self.key}/{JOURNAL}")
        if etag == self._journal:
            return
        stored = self.bucket.get(f"{self.key}/{JOURNAL}") or b""
        if not (self.folder / JOURNAL).read_bytes().startswith(stored):  # else the answer to our own write was lost
            raise BucketError(
                f"{self.bucket.url}/{self.key}: another attempt at this trial writes there; this one, of process "
                f"{os.getpid()}, was taken for dead and ends"
            )
        self._journal = etag

    def _publish(self) -> None:
        """Share this trial's finished pretrainings, unless another trial has shared the same before."""
        for folder in (self.folder / "stages").glob("*"):
            key, encoder = f"{self._stages}/{folder.name}", encoder_path(folder)
            if folder.name in self._published or not encoder.exists() or not _is_finished(folder):
                continue
            if self.bucket.etag(f"{key}/{JOURNAL}") is None:
                for path in (*(folder / "artifacts").glob("*"), encoder, folder / JOURNAL):  # in this order
                    with path.open("rb") as file:
                        self.bucket.put(f"{key}/{path.relative_to(folder).as_posix()}", file)
            self._published.add(folder.name)


@contextmanager
def synced_trial(bucket: Bucket, folder: Path, record: TrialRecord) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Sync a trial's folder with the bucket while the block runs.

    Yields the folder, and a function that fetches the driver's stop request into it.

    Args:
        bucket: where the sweeps lie.
        folder: where this node keeps the folders of trials.
        record: see `attempt`.

    Raises:
        BucketError: the bucket was away for too long, or another attempt has taken the trial over.
    """
    key = f"{record.sweep}/trials/{record.trial_id}"
    copy = TrialSync(bucket, key, folder / f"rank{rank()}" / key)  # a node may run several ranks
    _fetch_origins(bucket, copy.folder, record)
    if rank() > 0:  # it only reads the checkpoint that rank 0 resumes from
        copy.fetch()
        yield copy.folder, lambda: None
        shutil.rmtree(copy.folder, ignore_errors=True)
        return
    copy.fetch(_pretraining(record.config))
    ended = threading.Event()
    sender = threading.Thread(target=_send_regularly, args=(copy, ended), name="sender", daemon=True)
    sender.start()
    try:
        yield copy.folder, copy.fetch_stop_request
    finally:
        ended.set()
        sender.join()
        copy.push()
    shutil.rmtree(copy.folder, ignore_errors=True)  # a node's disk is small beside all trials' encoders


def _fetch_origins(bucket: Bucket, folder: Path, record: TrialRecord) -> None:
    """Download the earlier sweeps' weights that the trial uses. They stay for the next trials of the node."""
    for pin, identity in record.config.get("pins", {}).items():
        if pin.startswith(("encoder.from ", "subset.from ")):
            path = origin_file(folder.parents[1], identity)
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock"), f"{path.name}, which it downloads") as turn:
                if not is_origin(path, identity):  # trials of a node begin at the same time
                    partial = path.with_name(f"{path.name}.{turn}")
                    bucket.download(origin_file(Path(record.sweep), identity).as_posix(), partial)
                    partial.replace(path)


def _pretraining(config: Mapping[str, Any]) -> str:
    """The key of a trial's pretraining if it runs on this node."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return stage_key(config, "pretrain", resolve_precision(config["precision"], device), world_size())


def _send_regularly(copy: TrialSync, ended: threading.Event) -> None:
    pause_s = EVERY_S
    while not ended.wait(pause_s):
        started = time.monotonic()
        try:
            copy.push()
        except Exception as error:  # the thread's edge: the last push raises it
            log.warning("the trial's files are not uploaded yet (%s)", error)
        pause_s = max(EVERY_S, time.monotonic() - started)


def _order(name: str) -> int:
    parts = name.split("/")
    return 0 if "artifacts" in parts[:-1] else UPLOAD_ORDER.get(parts[-1], 2)


def _is_whole(name: str) -> bool:
    return not any(part.endswith(".partial") for part in name.split("/"))


def _is_finished(pretraining: Path) -> bool:
    return any(isinstance(event, PretrainingFinished) for event in read(pretraining)[0])


def _stamp(file: Path | int) -> Stamp:
    status = os.stat(file)
    return status.st_ino, status.st_mtime_ns, status.st_size
