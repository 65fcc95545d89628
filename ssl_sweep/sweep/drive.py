"""Runs one driver of a sweep: brings ledger, Ray, MLflow and display together. `finish.py` does what follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from ssl_sweep.cluster.observers import Observers
from ssl_sweep.cluster.run import Ending, check_thread, run_sweep
from ssl_sweep.cluster.start import check_start
from ssl_sweep.ledger.entries import LeaseLost, Notes, Trial
from ssl_sweep.ledger.lease import Lease, sole_driver
from ssl_sweep.ledger.open import open_ledger, open_notes, sweep_names
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.launch import launch_error, size_findings, size_warnings
from ssl_sweep.spec.plan import plan_warnings
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.weights import check_weights
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.stored_spec import write_spec
from ssl_sweep.storage.urls import redacted
from ssl_sweep.sweep import finish
from ssl_sweep.sweep.agreement import settle_journals
from ssl_sweep.sweep.data_check import DataChanged, finish_restart, open_data, take_data
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.sweep.interrupted import end_interrupted
from ssl_sweep.sweep.notify import Notifier
from ssl_sweep.sweep.pins import take_pins
from ssl_sweep.sweep.progress import Progress
from ssl_sweep.sweep.steering import ResumeSelection, check_not_stopped, prepare_resume
from ssl_sweep.sweep.storage_identity import keep_sweep_id, settle
from ssl_sweep.sweep.tracking_uri import check_environment, check_own_store, tracking_uri
from ssl_sweep.tables.table import Table
from ssl_sweep.tracking.recorder import Recorder
from ssl_sweep.tracking.store import check_store
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.disk import is_full, room_in
from ssl_sweep.trialdir.journal import JOURNAL
from ssl_sweep.trialdir.states import TrialState

ENDED_WAIT_S = 10.0  # for MLflow, after an error or a second Ctrl-C; the next driver delivers the rest


@dataclass(frozen=True)
class Summary:
    """The result of a driver's work."""

    trials: Sequence[Trial]
    total: int
    ending: Ending
    table: Table | None
    unrecorded: int  # events that MLflow has not taken yet
    remarks: tuple[str, ...] = ()  # on the search as a whole

    @property
    def failed(self) -> list[Trial]:
        """The trials that were given up."""
        return [trial for trial in self.trials if trial.state == TrialState.FAILED]

    @property
    def complete(self) -> list[Trial]:
        """The trials with results."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def pruned(self) -> list[Trial]:
        """The trials that a pruner ended."""
        return [trial for trial in self.trials if trial.state == TrialState.PRUNED]

    @property
    def confirming(self) -> list[Trial]:
        """The trials with fresh seeds that confirm the best choices."""
        return [trial for trial in self.trials if trial.confirms]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the driver's process."""
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
    data_changed: DataChanged | None = None,
) -> Summary:
    """Run the open trials of a sweep and make its table.

    Args:
        spec: the sweep's own spec, or an extension of it (`extension.extend_spec`).
        storage: where the sweep lies.
        console: where progress is shown.
        address: see `run_sweep`.
        resume: the failed and stopped trials to run again; None runs none of them.
        extends: whether the spec is an extension.
        data_changed: what to do where the data is not what the sweep began with; see `take_data`.

    Raises:
        LedgerError: another driver works on this sweep, it was stopped, or its spec has changed.
        PinError, PluginError: the data, a file of weights or a plugin has changed since the sweep began, or is not at
            hand.
        NoSuchTrial: `resume` names a trial that does not exist.
        ClusterError: it is not called in the main thread; see also `run_sweep`.
        DataError: the data cannot be opened.
        SpecError: a new sweep's settings do not fit its number of training images.
        WeightsError: a file of weights cannot be read, or does not fit its encoder.
        StorageError: the address of MLflow or of the ledger is none, or relative.
        BucketError: the storage's bucket refuses access or cannot be reached.
        DamagedFileError: a file of the storage is damaged, or the ledger has lost the sweep.
        DiskFull: ledger or journal cannot be written; the sweep can be resumed when there is space again.
    """
    listings = _check(spec, storage, console, address, is_launch=resume is None and not extends)
    say = partial(console.print, markup=False, soft_wrap=True)
    folder = storage.sweep(spec.name)
    with room_in(storage.root):
        folder.mkdir(parents=True, exist_ok=True)
        notes = open_notes(storage.ledger_url, spec)
        asked = notes.read()  # requests that come later are to this driver
    with room_in(storage.root), sole_driver(folder, notes) as lease:
        if resume is None:
            check_not_stopped(notes, spec.name, asked)
        take = partial(take_data, spec, storage, notes, listings, say, data_changed)
        ledger = _take_up(spec, storage, notes, lease, say, take, extends=extends)
        only = prepare_resume(ledger, resume, asked, say) if resume is not None else None
        settle_journals(ledger, storage)
        run = partial(run_sweep, address=address, only=only, lease=lease)
        try:
            result = _run_and_finish(ledger, storage, console, run)
        except KeyboardInterrupt as error:
            error.add_note(f"interrupted; continue it: ssl-sweep resume {spec.name}")
            raise
        if not result.ending.interrupted:
            finish.clean_up(ledger, storage, say)
        settle(storage, say)  # the MLflow store, which the recorder may have made, gets the storage's id
        return result


def _check(
    spec: SweepSpec, storage: Storage, console: Console, address: str | None, *, is_launch: bool
) -> dict[str, str]:
    """Check all that can be checked before the sweep is touched; returns the listings of its data.

    is_launch: the sweep may be a new one.
    """
    check_thread()
    check_start(address)
    check_environment()
    train_images, listings = open_data(spec)
    for note in check_weights(spec):
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    storage.check(tracking_uri(spec, storage))
    if is_launch:
        _check_new(spec, train_images, storage, partial(console.print, markup=False, soft_wrap=True))
    check_store(tracking_uri(spec, storage))
    _check_known(spec.name, storage)
    return listings


def _take_up(
    spec: SweepSpec,
    storage: Storage,
    notes: Notes,
    lease: Lease,
    say: Callable[[str], object],
    take: Callable[[], object],
    *,
    extends: bool,
) -> Ledger:
    """Open the ledger, once storage, files and data are those that the sweep began with.

    take: sees to the data, see `take_data`.
    """
    storage_id = settle(storage, say)
    storage.take_over(spec.name)
    take_pins(spec, storage, notes, say, extends=extends)
    take()
    ledger = open_ledger(storage.ledger_url, spec, say, extends=extends, owner=lease.owner)
    write_spec(storage.sweep(spec.name), spec.model_dump(mode="json"))
    keep_sweep_id(storage, spec.name, tracking_uri(spec, storage), notes, storage_id)
    finish_restart(ledger, storage)
    storage.push(spec.name)  # before MLflow receives anything under this identity
    return ledger


def _check_known(name: str, storage: Storage) -> None:
    """Check that a sweep whose trials have run is in the ledger: a lost ledger must not begin them anew.

    Raises:
        DamagedFileError: it is not.
    """
    folder = storage.sweep(name)
    if any(True for _ in folder.glob(f"trials/*/{JOURNAL}")) and name not in sweep_names(storage.ledger_url):
        raise DamagedFileError(
            f"{folder} has trials, but the ledger at {redacted(storage.ledger_url)} has no sweep {name!r}: check "
            "SSL_SWEEP_LEDGER, or run `ssl-sweep doctor --mend`, with the same --storage, which rebuilds it from the "
            "trials; for a new sweep, choose another name or move the folder away"
        )


def _check_new(spec: SweepSpec, train_images: int, storage: Storage, say: Callable[[str], object]) -> None:
    """Check the addresses and sizes of a sweep that has not begun; one that has begun goes on as it is."""
    with room_in(storage.root):
        storage.root.mkdir(parents=True, exist_ok=True)
        if spec.name in sweep_names(storage.ledger_url):
            return
    check_own_store(spec)
    if findings := size_findings(spec, train_images):
        raise launch_error(spec.name, findings)
    for warning in size_warnings(spec, train_images):
        say(warning)


def _run_and_finish(ledger: Ledger, storage: Storage, console: Console, run: Callable[..., Ending]) -> Summary:
    """Run the sweep with its recorder, notifier and display, and finish it however it ends."""
    spec = ledger.spec
    uri = tracking_uri(spec, storage)
    notifier = Notifier(ledger, uri)
    exchange = partial(storage.exchange, spec.name, encoders=spec.tracking.models == "all")
    dump = spec.model_dump(mode="json")
    recorder = Recorder(
        spec.name, storage.sweep(spec.name), uri, dump, exchange, pins=ledger.pins, data=ledger.data.identities
    )
    recorder.start()
    progress = Progress(spec, ledger.trials, lambda: ledger.total, console, partial(storage.trial, spec.name))
    lease_lost, mlflow_wait_s = False, finish.MLFLOW_WAIT_S
    try:
        with progress.shown():
            ending = run(ledger, storage, Observers((progress, notifier)), backlog=recorder.pending)
        exchange()  # the table needs what trials wrote at their end
        table = finish.publish(ledger, storage, uri, ending, recorder, notifier)
    except LeaseLost:  # journals and MLflow are now another driver's to write
        lease_lost, mlflow_wait_s = True, 0.0
        raise
    except BaseException as error:  # Ctrl-C and SIGTERM too: the parent run must not stay RUNNING
        mlflow_wait_s = 0.0 if is_full(error) else ENDED_WAIT_S
        if isinstance(error, Exception):
            notifier.tell("failed", f"{type(error).__name__}: {error}")
        recorder.finish("FAILED" if isinstance(error, Exception) else "STOPPED")
        raise
    finally:
        if not lease_lost:
            end_interrupted(ledger, storage)
        unrecorded = recorder.close(mlflow_wait_s)
        notifier.close()
        if not lease_lost:
            finish.push_sweep(storage, spec.name)
    remarks = plan_warnings(spec) if ledger.searched else ()
    return Summary(ledger.trials, ledger.total, ending, table, unrecorded, remarks)
