"""What commands do to a sweep beside running it: stop and pause it, and choose what a resume takes up."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ssl_sweep.ledger.entries import LedgerError, Notes, Trial
from ssl_sweep.ledger.lease import SweepLockedError, driver_of, sole_driver
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.orders import clear_orders, give_order, read_orders
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.storage import mirror
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import NoSuchTrial, find_trial
from ssl_sweep.trial.attempt import ENDS
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import Journal, read
from ssl_sweep.trialdir.requests import Ask
from ssl_sweep.trialdir.states import TrialState

RESUMED_STATES = (TrialState.FAILED, TrialState.STOPPED)  # by a resume that names no trial


@dataclass(frozen=True)
class ResumeSelection:
    """What a resume takes up: every trial that is not complete, or only failed ones, or only those named."""

    failed: bool = False
    trials: Sequence[str] = ()  # ids, or how they begin


def request_end(storage: Storage, name: str, what: Literal["stop", "pause"], named: Sequence[str] = ()) -> str:
    """Ask a sweep, or some of its trials, to end; says what will happen. Where no driver runs, it is done at once.

    Raises:
        LedgerError, NoSuchTrial: there is no such sweep, no such trial, or it has ended.
    """
    ledger = load_ledger(storage.ledger_url, name)
    if sum(trial.ended for trial in ledger.trials) == ledger.total:
        raise LedgerError(f"{name} has ended: there is nothing to {what}; `ssl-sweep status {name}` lists its trials")
    ask = Ask(what, f"ssl-sweep {what} on {socket.gethostname()}")
    chosen = order_end(ledger, ask, named)
    try:
        with sole_driver(storage.sweep(name), ledger.notes) as lease:
            reopened = open_ledger(storage.ledger_url, ledger.spec, owner=lease.owner)  # a driver may just have ended
            ended = _end_now(reopened, storage, ask)
    except SweepLockedError:
        driver = driver_of(ledger.notes) or {"pid": "?", "host": "?"}
        which = "it ends" if len(chosen) == 1 else "they end" if chosen else "its running trials end"
        where = f"process {driver['pid']} on {driver['host']}"
        return f"asked its driver ({where}): {which} at the next report, with a checkpoint"
    return f"no driver runs {name}: {ended} trials marked {ENDS[what]}"


def order_end(ledger: Ledger, ask: Ask, named: Sequence[str] = ()) -> list[Trial]:
    """Write an order into the ledger, where a driver reads it; gives the trials that are named.

    Raises:
        NoSuchTrial: one of them is not there, or has ended.
    """
    chosen = [find_trial(ledger.trials, each) for each in named]
    for trial in chosen:
        if trial.ended:
            others = f"`ssl-sweep status {ledger.spec.name}` lists the others"
            raise NoSuchTrial(f"trial {trial.trial_id} is {trial.state} already; {others}")
    give_order(ledger.notes, ask, [trial.trial_id for trial in chosen])
    return chosen


def _end_now(ledger: Ledger, storage: Storage, ask: Ask) -> int:
    """Mark what is asked to end and has begun, or is named; how many trials that were."""
    orders, state, count = read_orders(ledger.notes), ENDS[ask.ask], 0
    for trial in ledger.trials:
        if trial.ended or trial.state == state or orders.of(trial.trial_id) is None:
            continue
        if not trial.attempts and trial.trial_id not in orders.trials:
            continue
        ledger.update(replace(trial, state=state, message=ask.why))
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        with mirror.at_hand(storage, folder):
            if (events := read(folder)[0]) and not isinstance(events[-1], Ended):
                Journal(folder).append(Ended(state=state, message=ask.why))
        count += 1
    return count


def prepare_resume(ledger: Ledger, selection: ResumeSelection) -> frozenset[str] | None:
    """Make ready what a resume is to run; the ids where that is not all. Takes back every stop and pause.

    Raises:
        NoSuchTrial: a trial that is named is not there, or is complete.
    """
    named = {find_trial(ledger.trials, each).trial_id for each in selection.trials}
    for trial in ledger.trials:
        if trial.trial_id in named and trial.state == TrialState.COMPLETE:
            raise NoSuchTrial(f"trial {trial.trial_id} is complete: there is nothing to resume of it")
    only = named or {trial.trial_id for trial in ledger.trials}
    if selection.failed:
        only = {
            trial.trial_id for trial in ledger.trials if trial.state == TrialState.FAILED and trial.trial_id in only
        }
    clear_orders(ledger.notes)
    for choice in ledger.choices:
        chosen = [
            trial.trial_id
            for trial in choice.all_trials
            if trial.ended and trial.trial_id in only and (trial.trial_id in named or trial.state in RESUMED_STATES)
        ]
        if chosen:
            ledger.retry(choice, chosen)
    return frozenset(only) if named or selection.failed else None


def check_not_stopped(notes: Notes, name: str) -> None:
    """Refuse to run a sweep that somebody has stopped; one that was paused goes on.

    Raises:
        LedgerError: it was stopped.
    """
    orders = read_orders(notes)
    if orders.sweep is not None and orders.sweep.ask == "stop":
        raise LedgerError(f"{name} was stopped ({orders.sweep.why}); go on with it: ssl-sweep resume {name}")
    if orders.sweep is not None:
        clear_orders(notes)
