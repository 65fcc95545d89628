"""Reads the logs of trials: tracebacks of failed ones, newest lines of running ones."""

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import NoSuchTrial, find_trial
from ssl_sweep.tracking.transcript import run_name
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import AttemptStarted, Ended, Event
from ssl_sweep.trialdir.journal import JOURNAL, read
from ssl_sweep.trialdir.states import TrialState

POLL_S = 0.5
MAX_BYTES = 1_000_000  # how much of a log's end is read
MAX_NAMED = 5  # trials listed above one error


def trial_log(ledger: LedgerReader, storage: Storage, prefix: str, lines: int) -> str:
    """The last lines of a trial's log, and its traceback if it failed. Raises NoSuchTrial."""
    trial = find_trial(ledger.trials, prefix)
    folder = _folder(ledger, storage, trial)
    text = tail(folder / "log.txt", lines) or f"trial {trial.trial_id} ({trial.state}) has written nothing yet\n"
    failure = _traceback(folder) if trial.state == TrialState.FAILED else None
    return text if failure is None or failure.strip() in text else f"{text}\n{failure}"


def sweep_logs(ledger: LedgerReader, storage: Storage, lines: int) -> str:
    """Each error of failed trials once, with these trials; if none failed, the newest lines of running ones."""
    failed = [trial for trial in ledger.trials if trial.state == TrialState.FAILED]
    if failed:
        return _errors(ledger, storage, failed)
    running = [trial for trial in ledger.trials if trial.state == TrialState.RUNNING]
    if not running:
        return f"no trial of {ledger.spec.name} runs, and none has failed; show the log of one with --trial ID\n"
    return "\n".join(
        f"{_title(ledger, trial)}\n{tail(_folder(ledger, storage, trial) / 'log.txt', lines)}" for trial in running
    )


def follow_log(storage: Storage, trial: Trial, path: Path, lines: int) -> Iterator[str]:
    """Yield the last lines of a trial's log, then new text until its journal says that the attempt has ended."""
    text, offset, _ = read_log(trial, path)
    yield _last(text, lines)
    while True:
        text, offset, ended = read_log(trial, path, offset)
        if text:
            yield text
        if ended:
            return
        time.sleep(POLL_S)
        storage.fetch(path, path.with_name(JOURNAL))


def read_log(trial: Trial, path: Path, start: int = 0) -> tuple[str, int, bool]:
    """A log's text from byte `start` on (the end of it if it is long), the next start, whether the attempt ended."""
    events = read(path.parent)[0]  # before the log, so that the log of an ended attempt is read whole
    text, offset = _read_end(path, start)
    return text, offset, bool(events) and isinstance(events[-1], Ended) and not _is_starting(trial, events)


def _is_starting(trial: Trial, events: list[Event]) -> bool:
    """Whether a trial runs again, but its journal ends with an earlier attempt."""
    attempts = [event.attempt or 0 for event in events if isinstance(event, AttemptStarted)]
    return trial.state == TrialState.RUNNING and bool(attempts) and attempts[-1] < trial.attempts


def find_log(ledger: LedgerReader, storage: Storage, prefix: str | None) -> tuple[Trial, Path]:
    """A trial, by default the only running one, and the path of its log. Raises NoSuchTrial."""
    running = [trial for trial in ledger.trials if trial.state == TrialState.RUNNING]
    if prefix is None and len(running) != 1:
        listed = ", ".join(trial.trial_id[:8] for trial in running) or "none"
        raise NoSuchTrial(f"{len(running)} trials run ({listed}); choose the one to follow with --trial")
    trial = running[0] if prefix is None else find_trial(ledger.trials, prefix)
    return trial, _folder(ledger, storage, trial) / "log.txt"


def tail(path: Path, lines: int) -> str:
    """The last lines of a file; empty if it does not exist."""
    return _last(_read_end(path)[0], lines)


def _last(text: str, lines: int) -> str:
    return "".join(text.splitlines(keepends=True)[-lines:])


def _read_end(path: Path, start: int = 0) -> tuple[str, int]:
    """The text from byte `start` on (the end of it if it is long), and the next start."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - MAX_BYTES))
            return file.read().decode(errors="replace"), file.tell()
    except FileNotFoundError:
        return "", start


def _errors(ledger: LedgerReader, storage: Storage, failed: list[Trial]) -> str:
    trials_by_error: dict[str, list[Trial]] = defaultdict(list)
    for trial in failed:
        trials_by_error[_traceback(_folder(ledger, storage, trial)) or f"{trial.message}\n"].append(trial)
    parts = []
    for traceback, trials in trials_by_error.items():
        titles = [_title(ledger, trial) for trial in trials[:MAX_NAMED]]
        titles += [f"and {len(trials) - MAX_NAMED} more"] if len(trials) > MAX_NAMED else []
        parts.append("\n".join(titles) + f"\n{traceback}")
    return "\n".join(parts)


def _traceback(folder: Path) -> str | None:
    """The traceback of the last failed attempt, or why it cannot be read."""
    try:
        events = read(folder)[0]
    except DamagedFileError as error:
        return f"{error}\n"
    ends = [event for event in events if isinstance(event, Ended) and event.state == TrialState.FAILED]
    return (ends[-1].traceback or None) if ends else None


def _title(ledger: LedgerReader, trial: Trial) -> str:
    name = run_name(ledger.choice(trial.choice).knobs, trial.seed)
    reason = f", {trial.reason}" if trial.reason else ""
    return f"trial {trial.trial_id} ({name}): {trial.state}{reason}, attempts {trial.attempts}"


def _folder(ledger: LedgerReader, storage: Storage, trial: Trial) -> Path:
    """A trial's folder, after its newest log and journal have been fetched."""
    folder = storage.trial(ledger.spec.name, trial.trial_id)
    storage.fetch(folder / "log.txt", folder / JOURNAL)
    return folder
