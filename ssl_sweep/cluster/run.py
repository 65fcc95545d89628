"""Runs a sweep on Ray: the scheduler's trials become Ray trials, and their reports go back to the scheduler."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from ssl_sweep.cluster import compat
from ssl_sweep.cluster.errors import ClusterError, InfeasibleError
from ssl_sweep.cluster.metrics import SweepMetrics
from ssl_sweep.cluster.observers import Observer, Observers
from ssl_sweep.cluster.scheduler import LedgerScheduler
from ssl_sweep.cluster.search import LedgerSearch
from ssl_sweep.cluster.signals import interrupts_noted, passed_to_tune
from ssl_sweep.cluster.start import ray_cluster
from ssl_sweep.cluster.trainable import AttemptFunction, trainable
from ssl_sweep.ledger.entries import LeaseLost
from ssl_sweep.ledger.lease import Lease
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.plan import AUTOSCALE_MAX, make_plan
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trial.attempt import attempt
from ssl_sweep.trialdir.requests import StopRequest


@dataclass(frozen=True)
class Ending:
    """How a driver's work on a sweep ended."""

    interrupted: bool
    halted: str | None  # the error that all first attempts shared, or that all others would meet, such as a full disk
    stop_request: StopRequest | None = None  # to stop or pause, from another terminal


def run_sweep(
    ledger: Ledger,
    storage: Storage,
    observer: Observer,
    *,
    address: str | None = None,
    work: AttemptFunction | None = None,
    only: Collection[str] | None = None,
    lease: Lease | None = None,
    backlog: Callable[[], int] = int,
) -> Ending:
    """Run a sweep's open trials on Ray until none is left, the user interrupts, or a request stops it.

    Args:
        ledger: the sweep's ledger; its RUNNING trials had a driver that died, and are resumed.
        storage: where trial folders lie: a folder that every node sees under the same path, or a bucket.
        observer: receives every start, report and end of a trial.
        address: a Ray cluster's address; None takes RAY_ADDRESS, or starts Ray on this machine.
        work: what a trial runs, by default `attempt` with shared pretrainings; tests and benchmarks pass something
            quick.
        only: ids of the trials to run; None runs all, and asks the ledger for new ones.
        lease: the driver's; if another driver takes it, this one stops.
        backlog: counts the events that MLflow lacks, for the metrics; by default none.

    Raises:
        ClusterError: the cluster cannot be reached or refuses access.
        InfeasibleError: no node has the resources for a trial.
        LeaseLost: another driver has taken the sweep over.
        LedgerUnreachableError: the ledger's database could not be reached for too long.
    """
    spec = ledger.spec
    metrics = SweepMetrics(ledger, backlog)
    scheduler = LedgerScheduler(ledger, storage, Observers((observer, metrics)), only=only, lease=lease)
    search = LedgerSearch(scheduler)
    stages = storage.shared_stages(spec.name)
    work = work or partial(attempt, stages=stages, objectives=spec.search.metrics, timeout=spec.resources.timeout)
    with (
        interrupts_noted(scheduler),
        ray_cluster(address, ledger.pins) as note_death,
        metrics.exported(),
        _scratch(storage.sweep(spec.name)) as scratch,
        passed_to_tune(scheduler),
    ):
        plan = make_plan(spec, _nodes())
        if plan.problems:
            raise InfeasibleError(f"{spec.name} cannot run here: {'; '.join(plan.problems)}")
        # drivers of gangs reserve almost nothing, so their number is limited to that of the gangs that fit
        max_concurrent = max(1, plan.concurrent) if spec.resources.workers > 1 else spec.resources.max_concurrent
        tuner = _tuner(trainable(spec, work, storage.place, scratch), search, note_death, max_concurrent, scratch)
        compat.patch_tune()
        if not scheduler.interrupted:
            with compat.cached_trainables():
                tuner.fit()
    if search.first_error is not None:
        raise search.first_error
    if lease is not None and lease.taken_by is not None:
        raise LeaseLost(f"{lease.taken_by} has taken {spec.name} over; this driver has stopped its trials")
    has_more = sum(trial.ended for trial in ledger.trials) < ledger.total
    interrupted = scheduler.open or scheduler.stop_request is not None or (scheduler.interrupted and has_more)
    return Ending(interrupted=interrupted, halted=scheduler.halted, stop_request=scheduler.stop_request)


def check_thread() -> None:
    """Check that a sweep can be run here: a stop, Ctrl-C and the loss of the lease are handled as signals.

    Raises:
        ClusterError: this is not the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ClusterError(
            f"a sweep runs in the main thread, not in {threading.current_thread().name!r}: call ssl_sweep.run there, "
            "or start a process of its own: ssl-sweep run SPEC.YAML"
        )


def cluster_nodes(address: str | None) -> list[dict[str, float]]:
    """What each node of a Ray cluster has: {"CPU": 64, "GPU": 8, ...}."""
    with ray_cluster(address):
        return _nodes()


class _FirstPending(FIFOScheduler):
    """Starts trials in Tune's own order, without searching through all ended trials."""

    def __init__(self, search: LedgerSearch, note_death: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search, self._note_death = search, note_death

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The oldest pending trial."""
        pending = [trial for trial in compat.live_trials(tune_controller) if trial.status == Trial.PENDING]
        return min(pending, key=lambda trial: trial.trial_id, default=None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass Ray's message about a dead process to the searcher: Tune gives it to its scheduler only."""
        self._note_death()
        with suppress(OSError):
            self._search.death_messages[trial.trial_id] = Path(trial.error_file).read_text()


class _DriverCallback(tune.Callback):
    """Polls requests between Ray's events, and handles interrupts."""

    def __init__(self, search: LedgerSearch) -> None:
        self._search = search

    def setup(self, *_: Any, **__: Any) -> None:
        """Note interrupts: Tune ignores its own flag while it waits for a trial and none runs."""
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, partial(self._interrupt, signal.getsignal(number)))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """About ten times a second."""
        self._search.poll_requests()
        scheduler = self._search.scheduler
        if (scheduler.lease_lost or self._search.first_error) and not scheduler.interrupted:
            os.kill(os.getpid(), signal.SIGUSR1)  # Tune then stops all trials

    def _interrupt(self, handler: Any, number: int, frame: Any) -> None:
        self._search.scheduler.interrupted = True
        if callable(handler):
            handler(number, frame)


def _tuner(
    function: Any, search: LedgerSearch, note_death: Callable[[], None], max_concurrent: int | None, scratch: Path
) -> tune.Tuner:
    """A Tuner that leaves the order and the retries of trials to the searcher."""
    return tune.Tuner(
        function,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=_FirstPending(search, note_death),
            num_samples=-1,
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=search.scheduler.ledger.spec.name,
            storage_path=str(scratch),
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # of verbosity 0; a notebook's would clear the cell's output
            callbacks=[_DriverCallback(search)],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )


def _nodes() -> list[dict[str, float]]:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    grown = json.loads(os.environ.get(AUTOSCALE_MAX, "null"))  # what an autoscaler adds when trials wait for it
    return [*nodes, grown] if grown else nodes


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for Tune's own snapshots, which are never read back."""
    scratch = folder / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    yield scratch
    shutil.rmtree(scratch, ignore_errors=True)
