"""One driver's work on a sweep, from the spec to the table: ledger, Ray, MLflow and display put together."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ssl_sweep.cluster.observers import Observers
from ssl_sweep.cluster.run import Ending, run_sweep
from ssl_sweep.data.images import DataError
from ssl_sweep.data.sources import open_source
from ssl_sweep.knobs import knobs
from ssl_sweep.ledger.entries import LeaseLost, Trial
from ssl_sweep.ledger.lease import sole_driver
from ssl_sweep.ledger.open import open_ledger, open_notes
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.report.page import make_page
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage import mirror
from ssl_sweep.storage.bucket import BucketError
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import best_trial
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.sweep.housekeeping import freed_bytes, remove, surplus, undelivered
from ssl_sweep.sweep.notify import Notifier
from ssl_sweep.sweep.progress import Progress
from ssl_sweep.sweep.steering import ResumeSelection, check_not_stopped, prepare_resume
from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.options import options
from ssl_sweep.tables.render import FORMATS, render
from ssl_sweep.tables.table import Table
from ssl_sweep.tracking.reader import runs
from ssl_sweep.tracking.recorder import Recorder
from ssl_sweep.tracking.writer import identity
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.disk import is_full, room_in
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import Journal, JournalError, read
from ssl_sweep.trialdir.states import TrialState

MLFLOW_WAIT_S = 60.0  # how long a finished sweep waits for MLflow to take the rest of its events
WORTH_SAYING = 1_000_000  # bytes
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a driver left behind."""

    trials: Sequence[Trial]
    total: int
    ending: Ending
    table: Table | None
    unrecorded: int  # events that MLflow has not taken yet

    @property
    def failed(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == TrialState.FAILED]

    @property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def pruned(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == TrialState.PRUNED]

    @property
    def confirming(self) -> list[Trial]:
        """Those with fresh seeds, of the choices that the search found best."""
        return [trial for trial in self.trials if trial.confirms]

    @property
    def exit_code(self) -> ExitCode:
        """What the process of this driver exits with."""
        if len(self.complete) + len(self.pruned) == self.total:
            return ExitCode.COMPLETE
        interrupted = self.ending.interrupted and self.ending.halted is None
        return ExitCode.INTERRUPTED if interrupted else ExitCode.INCOMPLETE


def drive(
    spec: SweepSpec,
    storage: Storage,
    console: Console,
    *,
    address: str | None = None,
    resume: ResumeSelection | None = None,
    extends: bool = False,
) -> Summary:
    """Run what is left of a sweep and make its table.

    Args:
        spec: the sweep's; the one that it has, or an extension of that one (`extension.extended`).
        storage: where it lies.
        console: where its progress is shown.
        address: see `run_sweep`.
        resume: which failed and stopped trials to run again; None: none.
        extends: whether the spec is an extension.

    Raises:
        LedgerError: another driver is at work on this sweep, it was stopped, or its spec has changed.
        NoSuchTrial: `resume` names one that does not exist.
        DataError: the data cannot be opened.
        BucketError: the bucket that the storage is in refuses, or cannot be reached.
        DiskFull: ledger or journal cannot be written; the sweep goes on from here when there is room again.
    """
    _open_data(spec)
    mirror.check(storage, tracking_uri(spec, storage))
    folder = storage.sweep(spec.name)
    with room_in(storage.root):
        folder.mkdir(parents=True, exist_ok=True)
        notes = open_notes(storage.ledger_url, spec)
    with room_in(storage.root), sole_driver(folder, notes) as lease:
        if resume is None:
            check_not_stopped(notes, spec.name)
        mirror.take_over(storage, spec.name)
        say = partial(console.print, markup=False, soft_wrap=True)
        ledger = open_ledger(storage.ledger_url, spec, say, extends=extends, owner=lease.owner)
        _write_spec(spec, folder)
        identity(folder / "sweep_id")
        mirror.push(storage, spec.name)  # before anything is told to MLflow under this identity
        only = prepare_resume(ledger, resume) if resume is not None else None
        summary = _drive(ledger, storage, console, partial(run_sweep, address=address, only=only, lease=lease))
        if not summary.ending.interrupted:
            _clean(ledger, storage, say)
        return summary


def _open_data(spec: SweepSpec) -> None:
    """Refuse data that is not there before anything is pretrained."""
    root, seed = spec.root, spec.data["split_seed"]
    open_source(spec.data["source"], root=root, split_seed=seed)
    for name, settings in spec.evaluate.items():
        knobs.check_data(name, settings, root)
        for source in knobs.data_sources(name, settings):
            try:
                open_source(source, root=root, split_seed=seed)
            except DataError as error:
                raise DataError(f"evaluate.{name}: {error}") from None


def tracking_uri(spec: SweepSpec, storage: Storage) -> str:
    """The MLflow store of a sweep: the spec's, or the storage's."""
    return spec.tracking.uri or storage.tracking_uri


def _drive(ledger: Ledger, storage: Storage, console: Console, run: Callable[..., Ending]) -> Summary:
    spec = ledger.spec
    uri = tracking_uri(spec, storage)
    notifier = Notifier(ledger, uri)
    exchange = partial(mirror.exchange, storage, spec.name, encoders=spec.tracking.models == "all")
    recorder = Recorder(spec.name, storage.sweep(spec.name), uri, spec.model_dump(mode="json"), exchange)
    recorder.start()
    progress = Progress(spec, ledger.trials, lambda: ledger.total, console)
    disowned, patience_s = False, MLFLOW_WAIT_S
    try:
        with progress.shown():
            ending = run(ledger, storage, Observers((progress, notifier)), backlog=recorder.pending)
        exchange()  # of what trials wrote at their end, nothing is to be missing in the table
        _notify(notifier, ledger, ending)
        table = _table(spec, recorder, uri)
        if table is not None:
            _page(spec, recorder, uri)
        if spec.tracking.models != "none" and not ending.interrupted and (best := best_trial(ledger, storage)):
            mirror.fetch(storage, encoder_path(storage.trial(spec.name, best.trial_id)))
            recorder.log_best(best.trial_id)
        done = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in ledger.trials)
        recorder.finish("COMPLETE" if done == ledger.total else "STOPPED" if ending.interrupted else "FAILED")
    except LeaseLost:  # what journals and MLflow say is now another driver's business
        disowned, patience_s = True, 0.0
        raise
    except BaseException as error:  # Ctrl-C and SIGTERM too: the parent run must not look as if it ran on
        patience_s = 0.0 if is_full(error) else MLFLOW_WAIT_S
        if isinstance(error, Exception):
            notifier.tell("failed", f"{type(error).__name__}: {error}")
        recorder.finish("FAILED" if isinstance(error, Exception) else "STOPPED")
        raise
    finally:
        if not disowned:
            _end_interrupted(ledger, storage)
        unrecorded = recorder.close(patience_s)
        notifier.close()
        if not disowned:
            _leave(storage, spec.name)
    return Summary(ledger.trials, ledger.total, ending, table, unrecorded)


def _notify(notifier: Notifier, ledger: Ledger, ending: Ending) -> None:
    """Say how it ended, unless a person ended it."""
    if sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in ledger.trials) == ledger.total:
        notifier.tell("done")
    elif ending.halted is not None or not ending.interrupted:
        notifier.tell("failed", ending.halted)


def _table(spec: SweepSpec, recorder: Recorder, uri: str) -> Table | None:
    """The ablation table from MLflow, shown on the parent run; None while MLflow does not have everything."""
    deadline = time.monotonic() + MLFLOW_WAIT_S
    while recorder.pending() and time.monotonic() < deadline:
        time.sleep(0.1)
    if recorder.pending():
        return None
    try:
        found = runs([spec.name], uri)
    except Exception as error:  # MLflow has just gone away
        log.warning("sweep %s: MLflow cannot be read (%s); its table: ssl-sweep table %s", spec.name, error, spec.name)
        return None
    table = ablation(found, **options({spec.name: spec.model_dump(mode="json")}, found))
    recorder.log_table({f"table.{form}": render(table, form) for form in FORMATS})
    return table


def _page(spec: SweepSpec, recorder: Recorder, uri: str) -> None:
    """The sweep's page, shown on the parent run. A sweep that has ended well must not fail by a plot of it."""
    try:
        recorder.log_files({"report.html": make_page(spec.name, uri)})
    except Exception as error:
        words = "sweep %s: its page could not be made (%s); try again: ssl-sweep report %s"
        log.error(words, spec.name, error, spec.name, exc_info=not is_full(error))


def _leave(storage: Storage, name: str) -> None:
    """Have all that this driver wrote be there for the next, on whatever machine."""
    try:
        mirror.push(storage, name)
    except BucketError as error:  # how the sweep ended says more
        log.warning("not all of sweep %s is in its storage (%s)", name, error)


def _end_interrupted(ledger: Ledger, storage: Storage) -> None:
    """Have MLflow not show as running what stopped with its driver; the trial's next attempt says that it goes on."""
    for trial in ledger.trials:
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        try:
            if trial.state == TrialState.RUNNING:
                with mirror.at_hand(storage, folder):
                    _end_attempt(folder)
        except BucketError as error:  # it has been waited for
            log.warning("MLflow may show trials as running (%s)", error)
            return
        except (JournalError, OSError) as error:  # the others are to be ended all the same
            log.warning("trial %s: MLflow may show it as running (%s)", trial.trial_id, error)


def _end_attempt(folder: Path) -> None:
    events = read(folder)[0]
    if events and not isinstance(events[-1], Ended):
        Journal(folder).append(
            Ended(state=TrialState.INTERRUPTED, message="its sweep was interrupted, and can go on with it")
        )


def _clean(ledger: Ledger, storage: Storage, say: Callable[[str], object]) -> None:
    """Free what the sweep no longer needs, by the rule of `ssl-sweep clean`."""
    try:
        keep = None if undelivered(ledger, storage) else ledger.spec.keep_encoders
        with mirror.hollow(storage, ledger.spec.name) as shape:
            found = surplus(ledger, shape, keep)
            freed = sum(freed_bytes(found).values())
            remove(found)
    except (BucketError, OSError) as error:  # a sweep that has ended well must not fail by what it leaves behind
        log.warning("not everything could be removed (%s); try again: ssl-sweep clean %s", error, ledger.spec.name)
    else:
        if freed >= WORTH_SAYING:
            say(f"freed {freed / 1e6:,.1f} MB that nothing needs any more")


def _write_spec(spec: SweepSpec, folder: Path) -> None:
    """Leave the spec beside the trials, for people and for `table` when the ledger is elsewhere."""
    dump: dict[str, Any] = spec.model_dump(mode="json")
    write_text(folder / "spec.yaml", yaml.safe_dump(dump, sort_keys=False))
