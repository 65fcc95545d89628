"""Finishes a driver's work on a sweep: notice, table, page and best model, then the removal of unneeded files."""

import logging
import time
from collections.abc import Callable

import pandas as pd

from ssl_sweep.cluster.run import Ending
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.report.page import make_page
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.bucket import BucketError
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.agreement import differing, settle_results
from ssl_sweep.sweep.best import best_trial
from ssl_sweep.sweep.housekeeping import find_removable, freed_bytes, remove, undelivered_events
from ssl_sweep.sweep.notify import Notifier
from ssl_sweep.tables.options import make_table, with_undrawn
from ssl_sweep.tables.render import FORMATS, render
from ssl_sweep.tables.table import Table
from ssl_sweep.tracking.reader import runs
from ssl_sweep.tracking.recorder import Recorder
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trialdir.disk import is_full
from ssl_sweep.trialdir.states import TrialState

MLFLOW_WAIT_S = 60.0  # how long a finished sweep waits for MLflow to take the rest of its events
REPORTED_BYTES = 1_000_000  # freed space below this is not mentioned
log = logging.getLogger(__name__)


def publish(
    ledger: Ledger, storage: Storage, uri: str, ending: Ending, recorder: Recorder, notifier: Notifier
) -> Table | None:
    """Send the notice, and log table, page and best model on the sweep's parent run in MLflow.

    Args:
        ledger: the sweep's.
        storage: where it lies.
        uri: its MLflow store.
        ending: how the driver's run ended.
        recorder: has received all events of the trials.
        notifier: the sweep's.

    Returns:
        The table; None while MLflow lacks events or cannot be read.
    """
    spec = ledger.spec
    is_done = _is_done(ledger)
    if is_done:
        notifier.tell("done")
    elif ending.halted is not None or not ending.interrupted:
        notifier.tell("failed", ending.halted)
    table = _log_table(ledger, storage, recorder, uri)
    if table is not None:
        _log_page(spec, recorder, uri)
    if spec.tracking.models != "none" and not ending.interrupted and (best := best_trial(ledger, storage)):
        storage.fetch(encoder_path(storage.trial(spec.name, best.trial_id)))
        recorder.log_best(best.trial_id)
    recorder.finish("COMPLETE" if is_done else "STOPPED" if ending.interrupted else "FAILED")
    return table


def _is_done(ledger: Ledger) -> bool:
    done = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in ledger.trials)
    return done == ledger.total


def _log_table(ledger: Ledger, storage: Storage, recorder: Recorder, uri: str) -> Table | None:
    """Make the ablation table from MLflow and log it; None while MLflow lacks events or cannot be read."""
    spec = ledger.spec
    try:
        frame = _runs(ledger, storage, recorder, uri)
    except Exception as error:  # MLflow has just gone away
        log.warning("sweep %s: MLflow cannot be read (%s); its table: ssl-sweep table %s", spec.name, error, spec.name)
        return None
    if frame is None:
        return None
    dump = spec.model_dump(mode="json")
    table = make_table({spec.name: dump}, with_undrawn(frame, [dump]))
    recorder.log_table({f"table.{form}": render(table, form) for form in FORMATS})
    return table


def _runs(ledger: Ledger, storage: Storage, recorder: Recorder, uri: str) -> pd.DataFrame | None:
    """The sweep's runs once MLflow has all events, and agrees with the ledger; None if it lacks events."""
    if not _is_delivered(recorder):
        return None
    frame = runs([ledger.spec.name], uri)
    if wrong := differing(ledger, frame):
        recorder.deliver_again(settle_results(ledger, storage, wrong))
        if not _is_delivered(recorder):
            return None
        frame = runs([ledger.spec.name], uri)
        if left := sorted(differing(ledger, frame)):
            words = "sweep %s: MLflow and the table have other results than the ledger, or none, of trials %s; see: %s"
            log.warning(words, ledger.spec.name, ", ".join(left[:5]), "ssl-sweep doctor, with the same --storage")
    return frame


def _is_delivered(recorder: Recorder) -> bool:
    """Wait until MLflow has taken all events; returns whether it has."""
    deadline = time.monotonic() + MLFLOW_WAIT_S
    while recorder.pending() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not recorder.pending()


def _log_page(spec: SweepSpec, recorder: Recorder, uri: str) -> None:
    """Make the sweep's page and log it. An error of a plot must not fail a sweep that has ended well."""
    try:
        recorder.log_files({"report.html": make_page(spec.name, uri)})
    except Exception as error:
        words = "sweep %s: its page could not be made (%s); try again: ssl-sweep report %s"
        log.error(words, spec.name, error, spec.name, exc_info=not is_full(error))


def push_sweep(storage: Storage, name: str) -> None:
    """Send the sweep's own files to its bucket, where the next driver, on any machine, finds them."""
    try:
        storage.push(name)
    except BucketError as error:  # the error that ended the sweep matters more
        log.warning("not all of sweep %s is in its storage (%s)", name, error)


def clean_up(ledger: Ledger, storage: Storage, say: Callable[[str], object]) -> None:
    """Remove the files that the sweep no longer needs, by the rules of `ssl-sweep clean`."""
    try:
        keep = None if undelivered_events(ledger, storage) else ledger.spec.keep_encoders
        with storage.sparse_copy(ledger.spec.name) as shape:
            removable = find_removable(ledger, shape, keep)
            freed = sum(freed_bytes(removable).values())
            remove(removable)
    except (BucketError, OSError) as error:  # files that stay must not fail a sweep that has ended well
        log.warning("not everything could be removed (%s); try again: ssl-sweep clean %s", error, ledger.spec.name)
    else:
        if freed >= REPORTED_BYTES:
            say(f"freed {freed / 1e6:,.1f} MB of files that are no longer needed")
