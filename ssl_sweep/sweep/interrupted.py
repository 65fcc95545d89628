"""Writes down that trials run no more, so that MLflow does not show them as running for ever."""

import logging
from contextlib import suppress
from pathlib import Path

from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.lease import no_driver
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.storage.bucket import BucketError
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import Journal, read
from ssl_sweep.trialdir.states import TrialState

log = logging.getLogger(__name__)


def end_undriven(storage: Storage, name: str) -> None:
    """Write the end of a sweep whose driver was killed, and of its running trials, to their journals."""
    with suppress(LedgerError):  # a driver runs it, or its ledger is elsewhere
        ledger = load_ledger(storage.ledger_url, name)
        with no_driver(storage.sweep(name), ledger.notes):
            end_interrupted(ledger, storage)
            with storage.synced_journal(storage.sweep(name)):
                end_attempt(storage.sweep(name))


def end_interrupted(ledger: LedgerReader, storage: Storage) -> None:
    """Write INTERRUPTED to the journals of running trials, so that MLflow does not show them as running.

    The ledger keeps them as RUNNING: the next driver resumes them.
    """
    for trial in ledger.trials:
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        try:
            if trial.state == TrialState.RUNNING:
                with storage.synced_journal(folder):
                    end_attempt(folder)
        except BucketError as error:  # the bucket has been retried for long enough
            log.warning("MLflow may show trials as running (%s)", error)
            return
        except (DamagedFileError, OSError) as error:  # the others are to be ended all the same
            log.warning("trial %s: MLflow may show it as running (%s)", trial.trial_id, error)


def end_attempt(folder: Path) -> None:
    """Write INTERRUPTED to a journal that lacks an end."""
    events = read(folder)[0]
    if events and not isinstance(events[-1], Ended):
        message = "its sweep was interrupted, and can go on with it"
        Journal(folder).append(Ended(state=TrialState.INTERRUPTED, message=message))
