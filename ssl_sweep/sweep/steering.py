"""Stops and pauses sweeps and trials, and selects what a resume runs."""

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ssl_sweep.cluster.patience import LONGEST_STOP_S, silent_s
from ssl_sweep.ledger.entries import LedgerError, Notes, Trial
from ssl_sweep.ledger.lease import SweepLockedError, driver_of, sole_driver
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.orders import clear_orders, give_order, orders_in, read_orders
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import NoSuchTrial, find_trial
from ssl_sweep.sweep.resumed_settings import to_repeat
from ssl_sweep.trial.attempt import REQUESTED_STATES
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import Journal, read
from ssl_sweep.trialdir.processes import Process
from ssl_sweep.trialdir.requests import StopRequest
from ssl_sweep.trialdir.states import TrialState

LEDGER_S = 20.0  # how long a request waits for the ledger of a sweep that has a folder
POLL_S = 0.2
log = logging.getLogger(__name__)
RESUMED_STATES = (TrialState.FAILED, TrialState.STOPPED)  # of the trials that a resume without names runs again


@dataclass(frozen=True)
class ResumeSelection:
    """The trials that a resume runs: all that are not complete, only failed ones, or only those named."""

    failed: bool = False
    trials: Sequence[str] = ()  # ids, or the starts of ids
    settings: Mapping[str, Any] = field(default_factory=dict)  # knobs with which failed choices run again, as new ones


def stop_or_pause(storage: Storage, name: str, what: Literal["stop", "pause"], named: Sequence[str] = ()) -> str:
    """Ask a sweep's driver to stop or pause it or some of its trials; without a driver, do so at once.

    Args:
        storage: where the sweep lies.
        name: the sweep's.
        what: which of the two.
        named: ids of trials, or the starts of ids; none means the whole sweep.

    Returns:
        What happens next, in words.

    Raises:
        LedgerError: there is no such sweep, or it has ended.
        NoSuchTrial: there is no such trial, or it has ended.
    """
    ledger = _await_ledger(storage, name)
    if sum(trial.ended for trial in ledger.trials) == ledger.total:
        raise LedgerError(f"{name} has ended: there is nothing to {what}; `ssl-sweep status {name}` lists its trials")
    request = StopRequest(what, f"ssl-sweep {what} on {socket.gethostname()} at {time.strftime('%H:%M:%S')}")
    chosen = place_order(ledger, request, named)
    try:
        with sole_driver(storage.sweep(name), ledger.notes) as lease:
            current = open_ledger(storage.ledger_url, ledger.spec, owner=lease.owner)  # a driver may just have ended
            count = _end_now(current, storage, request)
    except SweepLockedError:
        driver = driver_of(ledger.notes) or {"pid": "?", "host": "?", "state": None}
        which = "it ends" if len(chosen) == 1 else "they end" if chosen else "its running trials end"
        where = Process(driver["host"], driver["pid"]).described(driver["state"])
        asked = f"asked its driver ({where}): {which} at the next report, with a checkpoint"
        silent, longest_min = silent_s(storage, name), LONGEST_STOP_S / 60
        bound = f"one that gives no sign of life for {silent:g} s ends where its last checkpoint is"
        return asked if chosen else f"{asked}; {bound}, and after {longest_min:g} min all do"
    told = f"; `ssl-sweep sync {name}` tells MLflow" if count else ""
    return f"no driver runs {name}: {count} trials marked {REQUESTED_STATES[what]}{told}"


def _await_ledger(storage: Storage, name: str) -> LedgerReader:
    """The ledger of a sweep; if its driver has just begun, once it is made. Raises LedgerError: there is none."""
    deadline, told = time.monotonic() + LEDGER_S, False
    while True:
        try:
            return load_ledger(storage.ledger_url, name)
        except LedgerError:
            if not storage.sweep(name).is_dir() or time.monotonic() > deadline:
                raise
        if not told:
            log.warning("%s has no ledger yet; waiting up to %g s for a driver that has just begun", name, LEDGER_S)
        told = True
        time.sleep(POLL_S)


def place_order(ledger: LedgerReader, request: StopRequest, named: Sequence[str] = ()) -> list[Trial]:
    """Write an order to the ledger, where the driver reads it; returns the trials that `named` selects.

    Raises:
        NoSuchTrial: one of them does not exist, or has ended.
    """
    chosen = [find_trial(ledger.trials, prefix) for prefix in named]
    for trial in chosen:
        if trial.ended:
            others = f"`ssl-sweep status {ledger.spec.name}` lists the others"
            raise NoSuchTrial(f"trial {trial.trial_id} is {trial.state} already; {others}")
    give_order(ledger.notes, request, [trial.trial_id for trial in chosen])
    return chosen


def _end_now(ledger: Ledger, storage: Storage, request: StopRequest) -> int:
    """Mark the named trials, and those of the whole sweep that have begun; returns how many."""
    orders, state, count = read_orders(ledger.notes), REQUESTED_STATES[request.ask], 0
    for trial in ledger.trials:
        if trial.ended or trial.state == state or orders.of(trial.trial_id) is None:
            continue
        if not trial.attempts and trial.trial_id not in orders.trials:
            continue
        ledger.update(replace(trial, state=state, message=request.why))
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        try:
            with storage.synced_journal(folder):
                if (events := read(folder)[0]) and not isinstance(events[-1], Ended):
                    Journal(folder).append(Ended(state=state, message=request.why))
        except DamagedFileError as error:  # the others are to be ended all the same
            log.warning("trial %s: MLflow may show it as running (%s)", trial.trial_id, error)
        count += 1
    return count


def prepare_resume(
    ledger: Ledger,
    selection: ResumeSelection,
    asked: Mapping[str, Any],
    say: Callable[[str], object] = lambda _: None,
) -> frozenset[str] | None:
    """Cancel all earlier stops and pauses, and reopen the selected trials; with settings, add choices for failed ones.

    A failed choice that others run instead of stays as it is, unless its trials are named.

    Args:
        ledger: the sweep's.
        selection: which trials.
        asked: the notes with the earlier requests, as they were before this driver took the lease.
        say: gets a message about choices that are added.

    Returns:
        The ids of the trials to run; None runs all.

    Raises:
        NoSuchTrial: a named trial does not exist, or is complete.
        LedgerError: there are settings, but no selected trial has failed, or the search decides them.
        SpecError: a choice with a failed trial does not accept the settings.
    """
    named = {find_trial(ledger.trials, prefix).trial_id for prefix in selection.trials}
    for trial in ledger.trials:
        if trial.trial_id in named and trial.state == TrialState.COMPLETE:
            raise NoSuchTrial(f"trial {trial.trial_id} is complete: it cannot be resumed")
    only = named or {trial.trial_id for trial in ledger.trials}
    if selection.failed:
        only = {
            trial.trial_id for trial in ledger.trials if trial.state == TrialState.FAILED and trial.trial_id in only
        }
    repeated = to_repeat(ledger, only, selection.settings)
    clear_orders(ledger.notes, asked)
    added = [new for choice in repeated if (new := ledger.repeat(choice, selection.settings)) is not None]
    if added:
        shown = ", ".join(f"{path} = {value}" for path, value in selection.settings.items())
        count = "1 failed choice runs" if len(added) == 1 else f"{len(added)} failed choices run"
        say(f"{count} again with {shown}, as new settings: the table shows them as rows")
    replaced = {choice.instead_of for choice in ledger.choices}
    for choice in ledger.choices:
        chosen = [
            trial.trial_id
            for trial in choice.all_trials
            if trial.ended
            and trial.trial_id in only
            and choice not in repeated
            and (trial.trial_id in named or (trial.state in RESUMED_STATES and choice.number not in replaced))
        ]
        if chosen:
            ledger.retry(choice, chosen)
    only |= {trial.trial_id for choice in added for trial in choice.trials}
    return frozenset(only) if named or selection.failed else None


def check_not_stopped(notes: Notes, name: str, asked: Mapping[str, Any]) -> None:
    """Refuse to run a sweep that was stopped. A paused one continues. asked: as of `prepare_resume`.

    Raises:
        LedgerError: the sweep was stopped.
    """
    orders = orders_in(asked)
    if orders.sweep is not None and orders.sweep.ask == "stop":
        raise LedgerError(f"{name} was stopped ({orders.sweep.why}); continue it: ssl-sweep resume {name}")
    if orders.sweep is not None:
        clear_orders(notes, asked)
