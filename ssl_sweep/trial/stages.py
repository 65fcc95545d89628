"""The finished stages of a trial, and the pretrainings that trials share.

A shared pretraining has a folder `stages/KEY/`: `checkpoint.pt` while it runs, then `encoder.pt`, `artifacts/`, and
`journal.jsonl`, which every trial that shares it copies into its own. The `stage` event is written last: the other
files are complete by then. The operating system releases the lock when the process that holds it dies.

One that holds the lock and gives no sign, stopped or cut off, loses its turn: another trial goes on in `stages/KEY.2/`,
which begins as a copy. So no folder ever has two writers. The former holder finds out at its next report.
"""

import errno
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_sweep.models.distributed import world_size
from ssl_sweep.training.health import Collapsed
from ssl_sweep.training.loop import Diverged, Report
from ssl_sweep.trialdir import watchdog
from ssl_sweep.trialdir.atomic import replacing, write_bytes, write_text
from ssl_sweep.trialdir.damage import MEND, DamagedFileError, read_text
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
from ssl_sweep.trialdir.locks import LockWait, renewed, try_lock

DETERMINISTIC = {"Diverged": Diverged, "Collapsed": Collapsed}  # errors that the same seed repeats
log = logging.getLogger(__name__)


class TakenOverError(RuntimeError):
    """Another trial has taken this trial's pretraining over, since it gave no sign for minutes."""


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
            return read_stages(self.path)
        except FileNotFoundError:
            return {}
        except DamagedFileError as error:
            log.warning("%s; reading the journal instead, which has the same", error)
            return stages_of(self.path.parent)


def read_stages(path: Path) -> dict[str, dict[str, Any]]:
    """The finished stages that `stages.json` has. Raises DamagedFileError, FileNotFoundError."""
    try:
        finished: dict[str, dict[str, Any]] = json.loads(read_text(path))
        if all(set(entry) == {"key", "results"} for entry in finished.values()):
            return finished
        wrong = "an entry is no finished stage"
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        wrong = str(error)
    raise DamagedFileError(f"{path} is damaged ({wrong}); {MEND}")


def stages_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The finished stages by a trial's journal, as `stages.json` has them. Raises DamagedFileError."""
    events = [event for event in read(folder)[0] if isinstance(event, StageFinished)]
    return {event.stage: {"key": event.key, "results": event.results} for event in events}


class SharedPretraining:
    """A pretraining as one trial sees it: the first trial that needs it runs it, the others follow its reports."""

    def __init__(self, folder: Path, trial: Journal, report: Report) -> None:
        """folder: of the first turn. trial: its journal. report: gets each epoch that is new in it; may raise Stop."""
        self.folder = self._first = folder  # of the newest turn
        self._trial, self._report = trial, report
        self._id = trial.path.parent.name
        self._offset, self._inode = 0, 0  # in the journal that is followed
        self._state: PretrainingStarted | PretrainingFailed | PretrainingFinished | None = None  # the newest of these
        self._wait: LockWait | None = None

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
            TakenOverError: another trial has taken it over from this one, which has several workers.
        """
        self._first.mkdir(parents=True, exist_ok=True)
        ran = False
        while (finished := self._follow()) is None or not (ran or is_whole()):
            folder = self.folder
            with try_lock(folder / "lock") as is_ours:
                if is_ours and not (self._follow() and is_whole()) and self.folder == folder:
                    ran = self._run(make)
            if not is_ours:
                self._wait_a_moment()
        self._end_wait()
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        if finished.trial != self._id:
            self._trial.append_once(TagsSet(tags={"pretrained_by": finished.trial}))
        return finished.results

    def _follow(self) -> PretrainingFinished | None:
        """Copy new events of the pretraining's journal to the trial's; returns the last event once it is finished."""
        if (newest := newest_turn(self._first)) != self.folder or self._is_begun_anew():
            self.folder, self._offset, self._state = newest, 0, None  # events that are copied again change nothing
            self._end_wait()
        events, self._offset = read(self.folder, self._offset)
        starts = any(isinstance(event, PretrainingStarted) for event in events)
        if starts and isinstance(self._state, PretrainingFinished):  # it runs again: its encoder is damaged
            self._trial.append(StageStarted(stage="pretrain", key=self._first.name))
        replaced = _replaced_before(events)
        for i, event in enumerate(events):
            if i >= replaced or not isinstance(event, MetricsReported):
                self._copy(event)
        if isinstance(self._state, PretrainingFailed) and self._state.trial != self._id:
            self._raise_shared_failure(self._state)
        return self._state if isinstance(self._state, PretrainingFinished) else None

    def _is_begun_anew(self) -> bool:
        """Whether the journal that was followed has been deleted, and maybe made anew."""
        try:
            status = os.stat(self.folder / JOURNAL)
        except FileNotFoundError:
            return self._offset > 0
        before, self._inode = self._inode, status.st_ino
        return self._offset > 0 and (before != self._inode or status.st_size < self._offset)

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

    def _wait_a_moment(self) -> None:
        """Wait for the trial that runs the pretraining; take it over if that trial has lost its turn."""
        if self._wait is None:
            log.info("pretrain: another trial runs it; following %s", self.folder)
            alive, journal, saved = (self.folder / name for name in (watchdog.HEARTBEAT_FILE, JOURNAL, "checkpoint.pt"))
            self._wait = LockWait("the same pretraining", alive, journal, saved)
        maker = self._state.trial if self._state is not None else None
        if self._wait.is_over(maker):
            log.warning("pretrain: trial %s gives no sign; going on without it, from its last checkpoint", maker)
            _begin_turn(self.folder, next_turn(self.folder), self._id)

    def _end_wait(self) -> None:
        if self._wait is not None:
            self._wait.end()
            self._wait = None

    def _raise_shared_failure(self, failure: PretrainingFailed) -> None:
        """Raise the failure of another trial's pretraining, once: if a user resumes this trial, it runs its own."""
        if not self._trial.append_once(FailedAlike(maker=failure.trial, failed_at=failure.time)):
            return
        raise DETERMINISTIC[failure.kind](f"{failure.message} (trial {failure.trial}, same pretraining)")

    def _run(self, make: Callable[["PretrainingOutput"], dict[str, float]]) -> bool:
        """Run the pretraining; returns whether it is done, and not taken over by another trial."""
        self._end_wait()
        journal, folder = Journal(self.folder), self.folder
        journal.append(PretrainingStarted(trial=self._id, host=socket.gethostname(), pid=os.getpid()))

        def check() -> None:
            if newest_turn(self._first) != folder:
                raise TakenOverError(f"{folder}: another trial has taken this pretraining over while {self._id} hung")

        try:
            with renewed(folder / watchdog.HEARTBEAT_FILE):
                results = make(PretrainingOutput(folder, journal, check, self._follow))
                check()
        except tuple(DETERMINISTIC.values()) as error:
            journal.append(PretrainingFailed(trial=self._id, kind=type(error).__name__, message=str(error)))
            raise
        except TakenOverError as error:
            if world_size() > 1:  # the other workers have been dismissed
                raise
            log.warning("pretrain: %s; following it", error)
            return False
        journal.append(PretrainingFinished(trial=self._id, results=results))
        return True


class PretrainingOutput:
    """The reports, tags and files of a running pretraining: written to its journal, which all sharing trials copy."""

    def __init__(self, folder: Path, journal: Journal, check: Callable[[], None], follow: Callable[[], object]) -> None:
        """check: raises TakenOverError. follow: has the trial copy the journal."""
        self.folder = folder
        self._journal, self._check, self._follow = journal, check, follow

    def report(self, metrics: dict[str, float], step: int) -> None:
        """Report an epoch's metrics."""
        self._check()
        self._journal.report(metrics, step)
        self._follow()

    def tag(self, name: str, value: str) -> None:
        """Set a tag; repeated calls, also of other attempts, have no effect."""
        self._check()
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
        self._check()
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


def newest_turn(first: Path) -> Path:
    """The folder of a shared pretraining where it goes on; `first` unless its maker has lost its turn."""
    folder = first
    while (later := next_turn(folder)).exists():
        folder = later
    return folder


def next_turn(folder: Path) -> Path:
    """The folder of the turn after this one: `KEY`, `KEY.2`, `KEY.3`."""
    turn = folder.name.removeprefix(key_of(folder)).removeprefix(".")
    return folder.with_name(f"{key_of(folder)}.{int(turn or 1) + 1}")


def key_of(folder: Path) -> str:
    """The key of the pretraining in a folder, whichever turn it is."""
    return folder.name.partition(".")[0]


def _begin_turn(old: Path, new: Path, trial: str) -> None:
    """Make the folder of the next turn as a copy of the old one's state, unless another trial does."""
    partial = new.with_name(f"{new.name}.{trial}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    names = ["checkpoint.pt", *(f"artifacts/{path.name}" for path in (old / "artifacts").glob("*"))]
    for name in names:  # none is written in place
        with suppress(FileNotFoundError):
            link(old / name, partial / name)
    journal = (old / JOURNAL).read_bytes()  # last: it has to have the epochs of the checkpoint
    write_bytes(partial / JOURNAL, journal[: journal.rfind(b"\n") + 1])
    try:
        partial.rename(new)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    shutil.rmtree(partial, ignore_errors=True)
