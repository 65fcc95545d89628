"""The status of sweeps: states from the ledger, and the last event of each trial's journal."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.best import ranked
from ssl_sweep.ledger.database import LedgerUnreachableError, has_ledger
from ssl_sweep.ledger.entries import LedgerError, Trial
from ssl_sweep.ledger.lease import driver_of, is_driven
from ssl_sweep.ledger.open import load_ledger, sweep_names
from ssl_sweep.ledger.orders import read_orders
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.storage.layout import Storage, StorageError
from ssl_sweep.trialdir import journal, waits, watchdog
from ssl_sweep.trialdir.damage import MEND, DamagedFileError
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.record import glance
from ssl_sweep.trialdir.states import ENDED, TrialState

State = Literal["RUNNING", "COMPLETE", "FAILED", "STOPPED", "PAUSED", "INTERRUPTED"]


def sweep_status(storage: Storage, name: str) -> dict[str, Any]:
    """Counts and trials of one sweep, as plain JSON data."""
    ledger = load_ledger(storage.ledger_url, name)
    storage.pull(name)
    asked = read_orders(ledger.notes).sweep
    return {
        **_described(ledger),
        "driver": driver_of(ledger.notes),
        "asked": asdict(asked) if asked else None,
        "trials": trial_statuses(ledger.trials, ledger, storage),
    }


def overview(storage: Storage) -> list[dict[str, Any]]:
    """Counts of all sweeps of a storage; of one that cannot be read, its name and the reason as `damage`.

    Raises StorageError: there is no storage.
    """
    if not has_ledger(storage.ledger_url) and not storage.root.is_dir():
        raise StorageError(f"there is no storage at {storage.place}; name yours by --storage or SSL_SWEEP_STORAGE")
    return [_described_or_damage(storage, name) for name in sweep_names(storage.ledger_url)]


def _described(ledger: LedgerReader) -> dict[str, Any]:
    return {"state": state_of(ledger), **counts(ledger)}


def _described_or_damage(storage: Storage, name: str) -> dict[str, Any]:
    try:
        return {**_described(load_ledger(storage.ledger_url, name)), "damage": None}
    except UserError as error:
        return {"name": name, "damage": str(error)}


def counts(ledger: LedgerReader) -> dict[str, Any]:
    """The number of trials in each state, and the best result so far."""
    driven = is_driven(ledger.notes)
    states = Counter(_now(trial, driven=driven) for trial in ledger.trials)
    return {
        "name": ledger.spec.name,
        "phase": _phase(ledger),
        "total": ledger.total,
        "complete": states[TrialState.COMPLETE],
        "running": states[TrialState.RUNNING],
        "interrupted": states[TrialState.INTERRUPTED],
        "failed": states[TrialState.FAILED],
        "stopped": states[TrialState.STOPPED],
        "paused": states[TrialState.PAUSED],
        "pruned": states[TrialState.PRUNED],
        "waiting": ledger.total - sum(states.values()) + states[TrialState.CREATED],
        "objective": ", ".join(map(str, ledger.spec.search.objectives)),
        "best": _best(ledger),
    }


def state_of(ledger: LedgerReader) -> State:
    """The state of a sweep. FAILED: every trial has ended, and some have failed; INTERRUPTED: no driver runs it."""
    if is_driven(ledger.notes):
        return "RUNNING"
    states = {trial.state for trial in ledger.trials}
    if len(ledger.trials) == ledger.total and states <= set(ENDED):
        return next((state for state in ("FAILED", "STOPPED") if state in states), "COMPLETE")
    request = read_orders(ledger.notes).sweep
    if request is None:
        return "INTERRUPTED"
    return "STOPPED" if request.ask == "stop" else "PAUSED"


def may_be_driven(storage: Storage, name: str) -> bool:
    """Whether a driver may run a sweep: one whose ledger is not in this storage, may be driven elsewhere."""
    try:
        return is_driven(load_ledger(storage.ledger_url, name).notes)
    except (LedgerError, LedgerUnreachableError):
        return True


def state_now(trial: Trial, ledger: LedgerReader) -> TrialState:
    """A trial's state, INTERRUPTED where it was running and no driver runs it any more."""
    return _now(trial, driven=is_driven(ledger.notes))


def trials_in(ledger: LedgerReader, state: str | None) -> list[Trial]:
    """A sweep's trials that are in a state now, as `trial_statuses` tells it; None takes all."""
    driven = is_driven(ledger.notes)
    return [trial for trial in ledger.trials if state is None or _now(trial, driven=driven) == state]


def _now(trial: Trial, *, driven: bool) -> TrialState:
    return TrialState.INTERRUPTED if trial.state == TrialState.RUNNING and not driven else trial.state


def _phase(ledger: LedgerReader) -> str:
    """`searching`, `confirming` (of the best choices with fresh seeds) or `over`."""
    if not ledger.searched:
        return "searching"
    over = len(ledger.trials) == ledger.total and all(trial.ended for trial in ledger.trials)
    return "over" if over else "confirming"


def _best(ledger: LedgerReader) -> float | None:
    """The mean objective of the best choice, over its fresh seeds where it has any; see `knobs.best`."""
    best = ranked(ledger.trials, ledger.spec.search.primary)
    return best[0][1].value if best else None


def trial_statuses(trials: Sequence[Trial], ledger: LedgerReader, storage: Storage) -> list[dict[str, Any]]:
    """State, progress and results of trials, as plain JSON data."""
    driven = is_driven(ledger.notes)
    return [_trial_status(trial, _now(trial, driven=driven), ledger, storage) for trial in trials]


def _trial_status(trial: Trial, state: TrialState, ledger: LedgerReader, storage: Storage) -> dict[str, Any]:
    folder = storage.trial(ledger.spec.name, trial.trial_id)
    try:
        stage, epoch, age = last_sign(folder)
        damage, collapsed = damage_of(trial, folder), has_collapsed(folder)
    except DamagedFileError as error:
        stage, epoch, age, damage, collapsed = None, None, None, str(error), False
    return {
        "trial_id": trial.trial_id,
        "choice": trial.choice,
        "knobs": dict(ledger.choice(trial.choice).knobs),
        "seed": trial.seed,
        "confirms": trial.confirms,
        "state": state,
        "stage": stage,
        "epoch": epoch,
        "attempts": trial.attempts,
        "crashed": trial.failures,
        "lost": trial.lost,
        "reason": trial.reason,
        "message": trial.message,
        "damage": damage,
        "collapsed": collapsed,
        "last_sign_seconds": age,
        "waits": waits_of(folder) if state == TrialState.RUNNING else None,
        "results": dict(trial.results) if trial.results else None,
        "folder": str(folder),
    }


def has_collapsed(folder: Path) -> bool:
    """Whether a trial's features collapsed in its pretraining. Raises DamagedFileError."""
    return journal.has_tag(folder, "collapsed", "true")


def waits_of(folder: Path) -> str | None:
    """Whom a running trial waits for, or that its own process is stopped, in words; None if neither."""
    if (wait := waits.read(folder)) is not None:
        return str(wait)
    process = watchdog.process_of(folder / watchdog.HEARTBEAT_FILE)
    state = process.state if process is not None else None
    return f"does not go on: {process.described(state)}" if process is not None and state == "stopped" else None


def damage_of(trial: Trial, folder: Path) -> str | None:
    """What is wrong with the files of a trial that has run, as far as it is seen at a glance."""
    if not trial.attempts or not folder.exists():  # in a bucket, a running trial's folder comes later
        return None
    path = folder / journal.JOURNAL
    if trial.ended and not (path.exists() and path.stat().st_size):
        return f"{path} is {'empty' if path.exists() else 'gone'}; {MEND}"
    return glance(folder)


def last_sign(folder: Path) -> tuple[str | None, int | None, float | None]:
    """Stage and epoch of the last report, and the seconds since the last event or heartbeat."""
    events = journal.read(folder)[0] if (folder / "journal.jsonl").exists() else []
    reports = [event for event in events if isinstance(event, MetricsReported)]
    signs = [event.time for event in events[-1:]]
    with suppress(FileNotFoundError):
        signs.append((folder / watchdog.HEARTBEAT_FILE).stat().st_mtime)
    age = time.time() - max(signs) if signs else None
    if not reports:
        return None, None, age
    return reports[-1].stage, reports[-1].step, age
