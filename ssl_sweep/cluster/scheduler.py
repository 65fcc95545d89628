"""Decides which trial of a sweep runs next, and what follows from its end. Knows the ledger, but not Ray."""

import math
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from ssl_sweep.cluster.observers import Observer
from ssl_sweep.cluster.trial_queue import TrialQueue
from ssl_sweep.ledger import budgets
from ssl_sweep.ledger.entries import Choice, Trial
from ssl_sweep.ledger.lease import Lease
from ssl_sweep.ledger.orders import read_orders
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.plan import pretraining
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trial.attempt import REQUESTED_STATES, Outcome, dead_process_outcome
from ssl_sweep.trial.claim import keep
from ssl_sweep.trialdir.events import Ended, MetricsReported
from ssl_sweep.trialdir.journal import JOURNAL, Journal
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.requests import REQUEST_FILE, StopRequest, clear_stop_request, request_stop
from ssl_sweep.trialdir.states import TrialState

POLL_EVERY_S = 2.0  # how often the ledger is read for requests to stop or pause
LOST = "the trial's process died: killed, maybe by the kernel for lack of memory (see `dmesg`), or its node is gone"
SAME_FAILURES = 3  # if the first attempts, so many of them, fail with one message, the sweep halts


@dataclass(frozen=True)
class Launch:
    """An attempt that starts now."""

    record: TrialRecord
    attempt: int  # counts from 1
    folder: Path


class Idle(Enum):
    """Why no trial starts now."""

    WAIT = auto()  # one may start after another has ended, or soon
    FINISHED = auto()  # none will start any more


class LedgerScheduler:
    """Starts the ledger's open trials, asks it for new choices, and retries failed trials.

    The caller identifies each running attempt by a unique string, `run`.
    """

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        observer: Observer,
        *,
        only: Collection[str] | None = None,
        lease: Lease | None = None,
    ) -> None:
        """only, lease: see `run_sweep`."""
        self.ledger, self.storage, self.observer = ledger, storage, observer
        self.halted: str | None = None
        self.stop_request: StopRequest | None = None  # to end the whole sweep
        self.interrupted = False
        self._only, self._lease = only, lease
        self._poll_at = -math.inf  # when requests are read next
        self._requested_ids = set[str]()  # ids of running trials that have received their requests
        self._queue = TrialQueue(lambda trial: pretraining(self.ledger.record(trial).config))
        self._running: dict[str, Trial] = {}
        self._first_failures: list[str] | None = []  # None once a trial has completed
        for trial in ledger.pruned_running:  # the driver died before these trials ended themselves
            self._end(trial, Outcome(TrialState.PRUNED, message=ledger.choice(trial.choice).pruned))
        for choice in ledger.choices:
            self._queue.add(self._due(choice))
            self._record_unrun(choice.all_trials)

    @property
    def open(self) -> bool:
        """Whether a trial is queued or running."""
        return bool(self._queue or self._running)

    @property
    def running_ids(self) -> set[str]:
        """Ids of the running trials."""
        return {trial.trial_id for trial in list(self._running.values())}

    @property
    def lease_lost(self) -> bool:
        """Whether another driver has taken the sweep over."""
        return self._lease is not None and self._lease.taken_by is not None

    def next(self, run: str) -> Launch | Idle:
        """Start the next trial, if one can start now."""
        self.poll_requests()
        if self.stop_request is not None or self.interrupted or self.lease_lost:
            return Idle.WAIT if self._running and not self.interrupted else Idle.FINISHED
        with self.ledger.transaction():  # asks for a choice and starts its first trial in one transaction
            trial = self._start_next()
        if trial is None:
            may_start_later = self._running or (self._queue and self.halted is None)
            return Idle.WAIT if may_start_later else Idle.FINISHED
        clear_stop_request(self._folder(trial))  # requests to an earlier attempt
        self.storage.drop(self._folder(trial) / REQUEST_FILE)
        self._requested_ids.discard(trial.trial_id)
        self._running[run] = trial
        self.observer.started(trial)
        return Launch(self.ledger.record(trial), trial.attempts, self._folder(trial))

    def report(self, run: str, metrics: dict[str, float], step: int) -> None:
        """Record the metrics that an attempt reports, and ask its trial to end if it is pruned."""
        trial = self._running[run]
        report = MetricsReported(metrics=metrics, step=step)
        if report.stage != "pretrain":
            self._queue.mark_pretrained(trial)
        self.observer.reported(trial, report)
        if (why := self.ledger.report(trial, metrics, step)) is not None:
            self._request_stop(trial, StopRequest("prune", why))

    def end(self, run: str, outcome: Outcome) -> None:
        """Record the outcome of an attempt."""
        if (trial := self._take_running(run)) is not None:
            self._decide(trial, outcome)

    def process_died(self, run: str, message: str) -> None:
        """Record that an attempt's process died.

        Args:
            run: the attempt's.
            message: the cluster's message about the process; may be empty.
        """
        if (trial := self._take_running(run)) is not None:
            record, folder = self.ledger.record(trial), self._folder(trial)
            with self.storage.synced_journal(folder):
                outcome = dead_process_outcome(folder, LOST, message, record.config)
                keep(folder, record)
            self._decide(trial, outcome)

    def abandon(self, run: str) -> None:
        """Forget an attempt that an interrupt ended. Its trial stays RUNNING, and the next driver resumes it."""
        del self._running[run]

    def end_unanswered(self, request: StopRequest) -> None:
        """End the trials that run for the ledger, but have not answered a request to stop; their processes are dead."""
        for trial in self.ledger.trials:
            if trial.state == TrialState.RUNNING:
                self._end(trial, Outcome(REQUESTED_STATES[request.ask], message=request.why))

    def poll_requests(self) -> None:
        """Read users' requests every POLL_EVERY_S: pass them on to running trials, and end queued trials."""
        if time.monotonic() < self._poll_at:
            return
        self._poll_at = time.monotonic() + POLL_EVERY_S
        orders = read_orders(self.ledger.notes)
        self.stop_request = orders.sweep
        for trial in self._running.values():
            request = orders.of(trial.trial_id)
            if request is not None and trial.trial_id not in self._requested_ids:
                self._request_stop(trial, request)
                self._requested_ids.add(trial.trial_id)
        for trial in list(self._queue):
            request = orders.of(trial.trial_id)
            if request is not None and (trial.attempts or trial.trial_id in orders.trials):
                self._queue.remove(trial)
                self._finish(replace(trial, state=REQUESTED_STATES[request.ask], message=request.why))

    def _start_next(self) -> Trial | None:
        """Mark the next trial as running and return it; None if none can start now."""
        if self.halted is not None:
            return None
        unfinished = self._queue.unfinished_pretrainings(self._running.values())
        while self._needs_more(unfinished) and (choice := self.ledger.ask()) is not None:
            self._queue.add(self._due(choice))
        if self._only is None and not self._queue:
            self._queue.add(self.ledger.confirm())
        trial = self._queue.take(unfinished)
        if trial is None:
            return None
        trial = replace(trial, state=TrialState.RUNNING, attempts=trial.attempts + 1)
        self.ledger.update(trial)
        return trial

    def _needs_more(self, unfinished: set[str | None]) -> bool:
        """Whether to ask the ledger for a choice. A grid can be asked early, since its choices depend on no result."""
        early = self.ledger.spec.search.sampler == "grid"
        return self._only is None and self._queue.needs_more(unfinished, early=early)

    def _take_running(self, run: str) -> Trial | None:
        """Remove and return the trial of an ended attempt; None if another driver now writes the ledger."""
        trial = self._running.pop(run)
        return None if self.lease_lost else trial

    def _decide(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.state == TrialState.FAILED and trial in self.ledger.pruned_running:
            self._end(trial, Outcome(TrialState.PRUNED, message=self.ledger.choice(trial.choice).pruned))
        else:
            self._settle(trial, outcome)

    def _request_stop(self, trial: Trial, request: StopRequest) -> None:
        request_stop(self._folder(trial), request.ask, request.why)
        self.storage.send(self._folder(trial) / REQUEST_FILE)

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        """End a trial that does not run, in journal and ledger."""
        with self.storage.synced_journal(self._folder(trial)):
            keep(self._folder(trial), self.ledger.record(trial))
            Journal(self._folder(trial)).append(Ended(state=outcome.state, message=outcome.message))
        self._settle(trial, outcome)

    def _record_unrun(self, trials: Iterable[Trial]) -> None:
        """Write journals for trials that ended without running, so that MLflow shows them."""
        for trial in trials:
            folder = self._folder(trial)
            if trial.ended and trial.attempts == 0 and not (folder / JOURNAL).exists():
                with self.storage.synced_journal(folder):
                    self.ledger.record(trial).write(folder)
                    Journal(folder).append(Ended(state=trial.state, message=trial.message))

    def _settle(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.state == TrialState.FAILED:
            self._fail(budgets.count_failure(trial, outcome))
            return
        self._first_failures = None
        if outcome.state == TrialState.COMPLETE:
            self._queue.mark_pretrained(trial)
        results = outcome.results if outcome.state == TrialState.COMPLETE else None
        self._finish(
            replace(trial, state=outcome.state, results=results, reason=outcome.reason, message=outcome.message)
        )

    def _finish(self, trial: Trial) -> None:
        """Record the end of a trial, and queue or end the other seeds of its choice."""
        unrun = self.ledger.update(trial)
        self._record_unrun(unrun)
        for ended in (trial, *unrun):
            self.observer.ended(ended)
        queued_ids = {queued.trial_id for queued in self._queue}
        due = self._due(self.ledger.choice(trial.choice))
        self._queue.add(seed for seed in due if seed.state == TrialState.CREATED and seed.trial_id not in queued_ids)

    def _due(self, choice: Choice) -> Iterator[Trial]:
        return (trial for trial in self.ledger.due(choice) if self._only is None or trial.trial_id in self._only)

    def _fail(self, trial: Trial) -> None:
        """Retry a failed trial, or give it up."""
        spec = self.ledger.spec
        if trial.reason in budgets.HALTS:
            self.halted = self.halted or trial.message
            self.ledger.update(replace(trial, state=TrialState.CREATED))
            return
        has_retry = budgets.may_retry(trial, spec)
        if (
            not has_retry or trial.reason not in budgets.LOST
        ):  # a lost process is the machine's fault while it is retried
            self._note_first_failure(trial)
        if has_retry and self.halted is None:
            trial = replace(trial, state=TrialState.CREATED)
            self.ledger.update(trial)  # the remaining budgets outlive this driver
            self._queue.add_later(trial, budgets.wait_s(trial))
            return
        self._finish(replace(trial, state=TrialState.FAILED) if has_retry else budgets.mark_failed(trial, spec))

    def _note_first_failure(self, trial: Trial) -> None:
        if self._first_failures is None or self._is_of_one_choice(trial):
            return
        self._first_failures.append(trial.message or "")
        if len(self._first_failures) >= SAME_FAILURES and len(set(self._first_failures)) == 1:
            self.halted = trial.message

    def _is_of_one_choice(self, trial: Trial) -> bool:
        """Whether it diverged like another seed of its choice, which says nothing about other choices."""
        seeds = self.ledger.choice(trial.choice).all_trials
        return trial.reason in ("diverged", "collapsed") and any(
            seed.state == TrialState.FAILED and seed.seed != trial.seed for seed in seeds
        )

    def _folder(self, trial: Trial) -> Path:
        return self.storage.trial(self.ledger.spec.name, trial.trial_id)
