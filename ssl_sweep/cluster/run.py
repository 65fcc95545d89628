"""Runs a sweep on Ray: the scheduler's trials become Ray trials, and their reports go back to the scheduler."""

import shutil
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
from ssl_sweep.cluster.patience import AwakeClock
from ssl_sweep.cluster.scheduler import LedgerScheduler
from ssl_sweep.cluster.search import LedgerSearch
from ssl_sweep.cluster.signals import interrupts_noted, noted_after_ray
from ssl_sweep.cluster.signs import TrialSigns
from ssl_sweep.cluster.start import ray_cluster
from ssl_sweep.cluster.supervise import Supervisor
from ssl_sweep.cluster.trainable import AttemptFunction, trainable
from ssl_sweep.cluster.watch import with_growth
from ssl_sweep.ledger.entries import LeaseLost
from ssl_sweep.ledger.lease import Lease
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.plan import make_plan
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.open import find_storage
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
        InfeasibleError: no node has the resources for a trial, or those that had are gone.
        BrokenClusterError: Ray has died, or does not answer any more.
        LeaseLost: another driver has taken the sweep over.
        LedgerUnreachableError: the ledger's database could not be reached for too long.
    """
    spec = ledger.spec
    metrics, clock = SweepMetrics(ledger, backlog), AwakeClock()
    signs = TrialSigns(storage, spec.name, clock)
    scheduler = LedgerScheduler(ledger, storage, Observers((observer, metrics, signs)), only=only, lease=lease)
    search = LedgerSearch(scheduler)
    stages = storage.shared_stages(spec.name)
    work = work or partial(attempt, stages=stages, objectives=spec.search.metrics, timeout=spec.resources.timeout)
    with (
        interrupts_noted(scheduler),
        ray_cluster(address, ledger.pins) as joined,
        metrics.exported(),
        _scratch(storage.sweep(spec.name)) as scratch,
        noted_after_ray(scheduler),
    ):
        max_concurrent = _max_concurrent(spec)
        function = trainable(spec, work, storage.place, scratch)
        tuner = _tuner(function, search, joined.note_death, max_concurrent, scratch)
        compat.patch_tune()
        supervisor = Supervisor(search, signs, clock, joined)
        if not scheduler.interrupted:
            with compat.cached_trainables():
                supervisor.run(tuner.fit)
    return _ending(search, supervisor, lease)


def _max_concurrent(spec: SweepSpec) -> int | None:
    """How many trials may run at a time; None leaves it to the room that there is.

    Raises:
        InfeasibleError: no node has the resources for a trial.
    """
    plan = make_plan(spec, _nodes())
    if plan.problems:
        raise InfeasibleError(f"{spec.name} cannot run here: {'; '.join(plan.problems)}")
    # drivers of gangs reserve almost nothing, so their number is limited to that of the gangs that fit
    return max(1, plan.concurrent) if spec.resources.workers > 1 else spec.resources.max_concurrent


def _ending(search: LedgerSearch, supervisor: Supervisor, lease: Lease | None) -> Ending:
    """How the driver's work ended, once Tune has; raises what has ended it."""
    scheduler = search.scheduler
    ledger, name = scheduler.ledger, scheduler.ledger.spec.name
    if search.first_error is not None:
        raise search.first_error
    if lease is not None and lease.taken_by is not None:
        raise LeaseLost(f"{lease.taken_by} has taken {name} over; this driver has stopped its trials")
    if supervisor.error is not None:
        raise type(supervisor.error)(f"{supervisor.error}; {_go_on(name, scheduler.storage)}")
    if supervisor.unanswered is not None:
        scheduler.end_unanswered(supervisor.unanswered)
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

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Forget what only Tune's own analysis would read."""
        compat.forget_metrics(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass Ray's message about a dead process to the searcher: Tune gives it to its scheduler only."""
        compat.forget_metrics(trial)
        self._note_death()
        with suppress(OSError):
            self._search.death_messages[trial.trial_id] = Path(trial.error_file).read_text()


class _WhenInterrupted(tune.Stopper):
    """Ends all trials, and Tune, when the sweep is interrupted."""

    def __init__(self, search: LedgerSearch) -> None:
        self._search = search  # which Tune can pickle, as it does a stopper

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to end a trial: never."""
        return False

    def stop_all(self) -> bool:
        """Asked about ten times a second."""
        return self._search.scheduler.interrupted


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
            stop=_WhenInterrupted(search),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )


def _nodes() -> list[dict[str, float]]:
    return with_growth(node["Resources"] for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]


def _go_on(name: str, storage: Storage) -> str:
    place = "" if storage == find_storage() else f" --storage {storage.place}"
    return f"trials go on from their last checkpoints: ssl-sweep resume {name}{place}"


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for Tune's own snapshots, which are never read back."""
    scratch = folder / ".ray"
    shutil.rmtree(scratch, ignore_errors=True)
    yield scratch
    shutil.rmtree(scratch, ignore_errors=True)
