"""What of a trial is finished, and the pretrainings that trials share.

A shared pretraining lies in a folder `stages/KEY/`: `checkpoint.pt` while it is under way, then `encoder.pt`,
`artifacts/`, and `journal.jsonl`, which every trial that shares it copies into its own. Its `stage` event comes last,
when all else is on disk: who reads it finds the rest whole. The lock goes with the process that holds it, however it
dies.
"""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # torch depends on it: no bare GPU box is without

from ssl_sweep.training.health import Collapsed
from ssl_sweep.training.loop import Diverged, Report
from ssl_sweep.trialdir import watchdog
from ssl_sweep.trialdir.atomic import replacing, write_bytes, write_text
from ssl_sweep.trialdir.events import (
    ArtifactAdded,
    Event,
    FailedAlike,
    MetricsReported,
    PretrainingFailed,
    PretrainingFinished,
    PretrainingStarted,
    StageFinished,
    TagsSet,
)
from ssl_sweep.trialdir.journal import JOURNAL, Journal, read

POLL_SECONDS = 0.5
SILENCE_SECONDS = 3600.0  # a maker that lives saves every few minutes (training.SAVE_EVERY_SECONDS)
GRACE_S = 60.0  # how much longer than its maker a trial that waits may show no sign of life: the maker is to end first
DETERMINISTIC = {"Diverged": Diverged, "Collapsed": Collapsed}  # the same seed runs into these again
Signs = tuple[int | None, ...]
log = logging.getLogger(__name__)


class PretrainingStalledError(RuntimeError):
    """Whoever makes a pretraining that this trial needs has long given no sign of life, and keeps the lock."""


@dataclass(frozen=True)
class FinishedStages:
    """A trial's finished stages by name: the key they were run under, and their results."""

    path: Path

    def results(self, stage: str, key: str) -> dict[str, float] | None:
        """The results of a stage, None where it is not finished under this key."""
        entry = self._read().get(stage)
        return entry["results"] if entry is not None and entry["key"] == key else None

    def key(self, stage: str) -> str | None:
        """The key of a finished stage, None where it is not finished."""
        entry = self._read().get(stage)
        return entry["key"] if entry is not None else None

    def add(self, stage: str, key: str, results: dict[str, float]) -> None:
        """Note that a stage is finished."""
        self._write({**self._read(), stage: {"key": key, "results": results}})

    def drop(self, stage: str) -> None:
        """Have a stage run again."""
        self._write({name: entry for name, entry in self._read().items() if name != stage})

    def _write(self, finished: dict[str, dict[str, Any]]) -> None:
        write_text(self.path, json.dumps(finished, indent=1))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            finished: dict[str, dict[str, Any]] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            log.warning("%s is damaged (%s); going by the journal, which says the same", self.path, error)
            told = [event for event in read(self.path.parent)[0] if isinstance(event, StageFinished)]
            return {event.stage: {"key": event.key, "results": event.results} for event in told}
        return finished


class SharedPretraining:
    """A pretraining as one trial sees it: made by whichever trial needs it first, followed by the others."""

    def __init__(self, folder: Path, trial: Journal, report: Report) -> None:
        """trial: the trial's own journal. report: told of each epoch that is new there; may raise `Stop`."""
        self.folder = folder
        self._trial, self._report = trial, report
        self._id = trial.path.parent.name
        self._offset = 0
        self._state: PretrainingStarted | PretrainingFailed | PretrainingFinished | None = None  # the newest of these
        self._heard: tuple[Signs, float] | None = None  # the maker's last sign, and when it was seen

    def get_or_run(
        self, make: Callable[["PretrainingOutput"], dict[str, float]], is_whole: Callable[[], bool] = lambda: True
    ) -> dict[str, float]:
        """The results, once there are some. While another trial is at it, this one reports that one's epochs.

        make: makes the pretraining, or goes on with it from the checkpoint that a maker left; gives the results.
        is_whole: whether what a finished one made is still there as it was made; else it is made again.

        Raises:
            Diverged, Collapsed: that is how it ended, here or in another trial. A trial that is tried again after it
                has been told so makes a try of its own.
            PretrainingStalledError: the maker hangs, or died on a host whose locks outlive it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        made = False
        while (finished := self._follow()) is None or not (made or is_whole()):
            with self._turn() as ours:
                if ours and not (self._follow() and is_whole()):
                    self._make(make)
                    made = True
            if not ours:
                self._wait()
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        if finished.trial != self._id:
            self._trial.append_once(TagsSet(tags={"pretrained_by": finished.trial}))
        return finished.results

    def _follow(self) -> PretrainingFinished | None:
        """Copy the new events of the pretraining's journal to the trial's; the last event once it is finished."""
        events, self._offset = read(self.folder, self._offset)
        for event in events:
            self._copy(event)
        if isinstance(self._state, PretrainingFailed) and self._state.trial != self._id:
            self._fail_alike(self._state)
        return self._state if isinstance(self._state, PretrainingFinished) else None

    def _copy(self, event: Event) -> None:
        match event:
            case MetricsReported(metrics=metrics, step=step):
                if self._trial.report(metrics, step):
                    self._report(metrics, step)
            case TagsSet(tags=tags):
                self._trial.append_once(TagsSet(tags=tags))
            case ArtifactAdded(path=path):
                self._show(path)
            case PretrainingStarted() | PretrainingFailed() | PretrainingFinished():
                self._state = event

    def _show(self, path: str) -> None:
        """Have the trial show a file of the pretraining's too."""
        try:
            link(self.folder / path, self._trial.path.parent / path)
        except FileNotFoundError:  # tidied away, or lost in a power cut: no trial must fail for want of a picture
            log.warning("pretrain: %s is gone and cannot be shown", self.folder / path)
        else:
            self._trial.append_once(ArtifactAdded(path=path))

    def _wait(self) -> None:
        """Wait a little for the maker, alive while it is, unless it has been silent for too long."""
        # compared with one another only: the clocks of two hosts differ
        signs: Signs = tuple(
            _written(self.folder / name) for name in (JOURNAL, "checkpoint.pt", watchdog.HEARTBEAT_FILE)
        )
        if self._heard is None:
            log.info("pretrain: another trial is at it; following %s", self.folder)
        if self._heard is None or self._heard[0] != signs:
            self._heard = signs, time.monotonic()
        silent = time.monotonic() - self._heard[1]
        if silent > SILENCE_SECONDS:
            raise PretrainingStalledError(self._silence())
        if silent < GRACE_S:
            watchdog.heartbeat()
        time.sleep(POLL_SECONDS)

    def _silence(self) -> str:
        maker, host, pid = (getattr(self._state, name, "?") for name in ("trial", "host", "pid"))
        return (
            f"{self.folder}: trial {maker} makes this pretraining (host {host}, process {pid}) and has given no sign "
            f"for {SILENCE_SECONDS / 60:.0f} min; end that process, or where the host is gone remove "
            f"{self.folder / 'lock'}; then resume the sweep"
        )

    def _fail_alike(self, failure: PretrainingFailed) -> None:
        """Fail as the maker did, once: when a person has this trial tried again, it is to try."""
        if not self._trial.append_once(FailedAlike(maker=failure.trial, failed_at=failure.time)):
            return
        raise DETERMINISTIC[failure.kind](f"{failure.message} (trial {failure.trial}, same pretraining)")

    def _make(self, make: Callable[["PretrainingOutput"], dict[str, float]]) -> None:
        journal = Journal(self.folder)
        journal.append(PretrainingStarted(trial=self._id, host=socket.gethostname(), pid=os.getpid()))
        try:
            with watchdog.marking(self.folder / watchdog.HEARTBEAT_FILE):
                results = make(PretrainingOutput(self.folder, journal, self._follow))
        except tuple(DETERMINISTIC.values()) as error:
            journal.append(PretrainingFailed(trial=self._id, kind=type(error).__name__, message=str(error)))
            raise
        journal.append(PretrainingFinished(trial=self._id, results=results))

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Whether it is this trial's turn to make it; while the block runs it is nobody else's."""
        lock = FileLock(self.folder / "lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
        try:
            yield lock.is_locked
        finally:
            lock.release()


class PretrainingOutput:
    """What the maker says of a pretraining: to its journal, and so to every trial that shares it."""

    def __init__(self, folder: Path, journal: Journal, follow: Callable[[], object]) -> None:
        self.folder = folder
        self._journal, self._follow = journal, follow

    def report(self, metrics: dict[str, float], step: int) -> None:
        """An epoch's metrics."""
        self._journal.report(metrics, step)
        self._follow()

    def tag(self, name: str, value: str) -> None:
        """A tag, once, whatever the number of makers and epochs that set it."""
        self._journal.append_once(TagsSet(tags={name: value}))
        self._follow()

    @contextmanager
    def artifacts(self) -> Iterator[Path]:
        """A folder to write files into; at the block's end each is an artifact of every trial that shares this."""
        partial, whole = self.folder / "artifacts.partial", self.folder / "artifacts"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        whole.mkdir(exist_ok=True)
        yield partial
        for file in sorted(partial.iterdir()):
            file.replace(whole / file.name)  # never written over in place: trials hold links to the old one
            self._journal.append(ArtifactAdded(path=f"artifacts/{file.name}"))
        partial.rmdir()
        self._follow()


def link(source: Path, target: Path) -> None:
    """The same file under another name, a copy where the file system has no links; whole or not there."""
    try:
        with replacing(target) as partial:
            partial.unlink(missing_ok=True)  # of a killed process: a link, unlike a write, does not replace it
            os.link(source, partial)
    except OSError:
        write_bytes(target, source.read_bytes())


def _written(path: Path) -> int | None:
    """When a file was last written, None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
