"""The adapter between Ray Tune and the scheduler: Tune asks for trials, and passes on their reports as JSON."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.search import Searcher

from ssl_sweep.cluster.scheduler import Idle, Launch, LedgerScheduler
from ssl_sweep.ledger.entries import LeaseLost
from ssl_sweep.trial.attempt import Outcome

CLOSE_S = 10.0
HELD_S = 60.0
OWNER_DIED = "is dead because its owner has died"  # Ray's words; the owner of all trials is this driver


class LedgerSearch(Searcher):
    """A searcher of Tune that leaves every decision to the scheduler."""

    def __init__(self, scheduler: LedgerScheduler) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.first_error: Exception | None = None  # of the ledger or the disk
        self.death_messages: dict[str, str] = {}  # Ray's messages about processes that died, by Tune's ids of trials
        self._outcomes: dict[str, Outcome] = {}
        self._lock = threading.RLock()  # Tune's thread and the driver's main thread use the scheduler
        self._closed = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's config; None asks Tune to try again later, FINISHED means that no trial is left."""
        with self._in_turn():
            if self._closed:
                return str(Searcher.FINISHED)
            launch = self.scheduler.next(trial_id)
            if isinstance(launch, Launch):
                return {
                    "record": launch.record.to_json(),
                    "attempt": launch.attempt,
                    "folder": str(launch.folder),
                }
            return str(Searcher.FINISHED) if launch is Idle.FINISHED else None
        return None  # an error was stored

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take the metrics or the outcome that an attempt reports."""
        with self._in_turn():
            self._take(trial_id, result)
        if isinstance(self.first_error, LeaseLost):
            time.sleep(HELD_S)  # the trial waits for this to return; until the driver ends it, it must write nothing

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the end of an attempt. An error without an outcome means that its process died."""
        with self._in_turn():
            if self._closed:
                return
            if result is not None:
                self._take(trial_id, result)
            if (outcome := self._outcomes.pop(trial_id, None)) is not None:
                self.scheduler.end(trial_id, outcome)
                return
            message = self.death_messages.pop(trial_id, "")
            if error and OWNER_DIED not in message:
                self.scheduler.process_died(trial_id, message)
            else:  # an interrupt stopped Tune, or Ray has given this driver up, which is not the trial's fault
                self.scheduler.abandon(trial_id)

    def poll_requests(self) -> None:
        """See `LedgerScheduler.poll_requests`; does nothing while Tune's thread is at work."""
        if self._lock.acquire(blocking=False):
            try:
                with self._in_turn():
                    self.scheduler.poll_requests()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Take nothing more from Tune, which is left alone: whoever drives the sweep next writes its ledger."""
        self._closed = True
        if self._lock.acquire(timeout=CLOSE_S):  # what is being written is finished
            self._lock.release()

    def _take(self, trial_id: str, result: dict[str, Any]) -> None:
        if self._closed:
            return
        if "outcome" in result:
            self._outcomes[trial_id] = Outcome.from_json(result["outcome"])
        elif "step" in result:
            self.scheduler.report(trial_id, json.loads(result["metrics"]), result["step"])

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One thread at a time. The first error is stored, and raised after Tune stops: Tune would blame the trial."""
        with self._lock:
            try:
                yield
            except Exception as error:
                self.first_error = self.first_error or error

    def __getstate__(self) -> dict[str, Any]:
        """Give no state: Tune pickles its searcher into snapshots, which are never read back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger holds all state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see `save`."""
