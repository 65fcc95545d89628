"""The finished stages of a trial, and the pretrainings that trials share.

A shared pretraining has a folder `stages/KEY/`: `checkpoint.pt` while it runs, then `encoder.pt`, `artifacts/`, and
`journal.jsonl`, which every trial that shares it copies into its own. The `stage` event is written last: the other
files are complete by then. The operating system releases the lock when the process that holds it dies.
"""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # torch depends on it: every machine with torch has it

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
    StageStarted,
    TagsSet,
)
from ssl_sweep.trialdir.journal import JOURNAL, Journal, read

POLL_SECONDS = 0.5
SILENCE_SECONDS = 3600.0  # a running pretraining saves every few minutes (training.SAVE_EVERY_SECONDS)
GRACE_S = 60.0  # a waiting trial's heartbeat outlasts the running trial's by this, so that the latter is ended first
DETERMINISTIC = {"Diverged": Diverged, "Collapsed": Collapsed}  # errors that the same seed repeats
Signs = tuple[int | None, ...]
log = logging.getLogger(__name__)


class PretrainingStalledError(RuntimeError):
    """The trial that runs a shared pretraining gives no heartbeat, but keeps the lock."""


@dataclass(frozen=True)
class FinishedStages:
    """A trial's finished stages: the key and the results of each, in `stages.json`."""

    path: Path

    def results(self, stage: str, key: str) -> dict[str, float] | None:
        """The results of a stage; None if it is not finished under this key."""
        entry = self._read().get(stage)
        return entry["results"] if entry is not None and entry["key"] == key else None

    def key(self, stage: str) -> str | None:
        """The key of a finished stage; None if it is not finished."""
        entry = self._read().get(stage)
        return entry["key"] if entry is not None else None

    def add(self, stage: str, key: str, results: dict[str, float]) -> None:
        """Record a finished stage."""
        self._write({**self._read(), stage: {"key": key, "results": results}})

    def drop(self, stage: str) -> None:
        """Forget a finished stage, so that it runs again."""
        self._write({name: entry for name, entry in self._read().items() if name != stage})

    def _write(self, finished: dict[str, dict[str, Any]]) -> None:
        write_text(self.path, json.dumps(finished, indent=1))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            finished: dict[str, dict[str, Any]] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            log.warning("%s is damaged (%s); reading the journal instead, which has the same", self.path, error)
            events = [event for event in read(self.path.parent)[0] if isinstance(event, StageFinished)]
            return {event.stage: {"key": event.key, "results": event.results} for event in events}
        return finished


class SharedPretraining:
    """A pretraining as one trial sees it: the first trial that needs it runs it, the others follow its reports."""

    def __init__(self, folder: Path, trial: Journal, report: Report) -> None:
        """trial: the trial's own journal. report: called with each epoch that is new in it; may raise `Stop`."""
        self.folder = folder
        self._trial, self._report = trial, report
        self._id = trial.path.parent.name
        self._offset = 0
        self._state: PretrainingStarted | PretrainingFailed | PretrainingFinished | None = None  # the newest of these
        self._last_signs: tuple[Signs, float] | None = None  # of progress, and when they were first seen

    def get_or_run(
        self, make: Callable[["PretrainingOutput"], dict[str, float]], is_whole: Callable[[], bool] = lambda: True
    ) -> dict[str, float]:
        """Return the results: run the pretraining, or follow another trial that runs it and report its epochs.

        Args:
            make: runs or continues the pretraining, and returns the results.
            is_whole: whether a finished pretraining's files are intact; if not, it runs again.

        Raises:
            Diverged, Collapsed: the pretraining failed so, here or in another trial. A trial that is run again after
                this error runs the pretraining itself.
            PretrainingStalledError: the trial that runs it hangs, or has died on a host that keeps its locks.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ran = False
        while (finished := self._follow()) is None or not (ran or is_whole()):
            with self._try_lock() as is_ours:
                if is_ours and not (self._follow() and is_whole()):
                    self._run(make)
                    ran = True
            if not is_ours:
                self._wait()
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        if finished.trial != self._id:
            self._trial.append_once(TagsSet(tags={"pretrained_by": finished.trial}))
        return finished.results

    def _follow(self) -> PretrainingFinished | None:
        """Copy new events of the pretraining's journal to the trial's; returns the last event once it is finished."""
        events, self._offset = read(self.folder, self._offset)
        starts = any(isinstance(event, PretrainingStarted) for event in events)
        if starts and isinstance(self._state, PretrainingFinished):  # it runs again: its encoder is damaged
            self._trial.append(StageStarted(stage="pretrain", key=self.folder.name))
        replaced = _replaced_before(events)
        for i, event in enumerate(events):
            if i >= replaced or not isinstance(event, MetricsReported):
                self._copy(event)
        if isinstance(self._state, PretrainingFailed) and self._state.trial != self._id:
            self._raise_shared_failure(self._state)
        return self._state if isinstance(self._state, PretrainingFinished) else None

    def _copy(self, event: Event) -> None:
        match event:
            case MetricsReported(metrics=metrics, step=step):
                if self._trial.report(metrics, step):
                    self._report(metrics, step)
            case TagsSet(tags=tags):
                self._trial.append_once(TagsSet(tags=tags))
            case ArtifactAdded(path=path):
                self._add_artifact(path)
            case PretrainingStarted() | PretrainingFailed() | PretrainingFinished():
                self._state = event

    def _add_artifact(self, path: str) -> None:
        """Make a file of the pretraining an artifact of the trial."""
        try:
            link(self.folder / path, self._trial.path.parent / path)
        except FileNotFoundError:  # cleaned up, or lost in a power cut: a missing picture must not fail a trial
            log.warning("pretrain: %s is gone and cannot be shown", self.folder / path)
        else:
            self._trial.append_once(ArtifactAdded(path=path))

    def _wait(self) -> None:
        """Wait a moment for the trial that runs the pretraining. Raises PretrainingStalledError."""
        # times are only compared with each other: the clocks of two hosts differ
        signs: Signs = tuple(
            _written(self.folder / name) for name in (JOURNAL, "checkpoint.pt", watchdog.HEARTBEAT_FILE)
        )
        if self._last_signs is None:
            log.info("pretrain: another trial runs it; following %s", self.folder)
        if self._last_signs is None or self._last_signs[0] != signs:
            self._last_signs = signs, time.monotonic()
        silent_s = time.monotonic() - self._last_signs[1]
        if silent_s > SILENCE_SECONDS:
            raise PretrainingStalledError(self._stalled_message())
        if silent_s < GRACE_S:
            watchdog.heartbeat()
        time.sleep(POLL_SECONDS)

    def _stalled_message(self) -> str:
        maker, host, pid = (getattr(self._state, name, None) or "?" for name in ("trial", "host", "pid"))
        return (
            f"{self.folder}: trial {maker} makes this pretraining (host {host}, process {pid}) and has given no sign "
            f"for {SILENCE_SECONDS / 60:.0f} min; end that process, or where the host is gone remove "
            f"{self.folder / 'lock'}; then resume the sweep"
        )

    def _raise_shared_failure(self, failure: PretrainingFailed) -> None:
        """Raise the failure of another trial's pretraining, once: if a user resumes this trial, it runs its own."""
        if not self._trial.append_once(FailedAlike(maker=failure.trial, failed_at=failure.time)):
            return
        raise DETERMINISTIC[failure.kind](f"{failure.message} (trial {failure.trial}, same pretraining)")

    def _run(self, make: Callable[["PretrainingOutput"], dict[str, float]]) -> None:
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
    def _try_lock(self) -> Iterator[bool]:
        """Give whether this trial got the lock; it is held while the block runs."""
        lock = FileLock(self.folder / "lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
        try:
            yield lock.is_locked
        finally:
            lock.release()


class PretrainingOutput:
    """The reports, tags and files of a running pretraining: written to its journal, which all sharing trials copy."""

    def __init__(self, folder: Path, journal: Journal, follow: Callable[[], object]) -> None:
        self.folder = folder
        self._journal, self._follow = journal, follow

    def report(self, metrics: dict[str, float], step: int) -> None:
        """Report an epoch's metrics."""
        self._journal.report(metrics, step)
        self._follow()

    def tag(self, name: str, value: str) -> None:
        """Set a tag; repeated calls, also of other attempts, have no effect."""
        self._journal.append_once(TagsSet(tags={name: value}))
        self._follow()

    @contextmanager
    def artifacts(self) -> Iterator[Path]:
        """Give a folder; files that the block writes become artifacts of every trial that shares the pretraining."""
        partial, whole = self.folder / "artifacts.partial", self.folder / "artifacts"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        whole.mkdir(exist_ok=True)
        yield partial
        for file in sorted(partial.iterdir()):
            file.replace(whole / file.name)  # not overwritten in place: trials have hard links to the old file
            self._journal.append(ArtifactAdded(path=f"artifacts/{file.name}"))
        partial.rmdir()
        self._follow()


def link(source: Path, target: Path) -> None:
    """Hard-link a file under another name, atomically; copy it if the file system has no links."""
    try:
        with replacing(target) as partial:
            partial.unlink(missing_ok=True)  # left by a killed process: a link, unlike a write, does not replace it
            os.link(source, partial)
    except OSError:
        write_bytes(target, source.read_bytes())


def _replaced_before(events: Sequence[Event]) -> int:
    """The place of the last start of a pretraining that had been finished before: it repeats all earlier reports."""
    place, was_finished = 0, False
    for i, event in enumerate(events):
        if isinstance(event, PretrainingStarted) and was_finished:
            place, was_finished = i, False
        was_finished = was_finished or isinstance(event, PretrainingFinished)
    return place


def _written(path: Path) -> int | None:
    """When a file was last written, in ns; None if there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
