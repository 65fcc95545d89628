"""Ray Tune's view of the scheduler: Tune asks for trials and hands on what they report, as JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.search import Searcher

from ssl_sweep.cluster.scheduler import Idle, Launch, LedgerScheduler
from ssl_sweep.trial.attempt import Outcome


class LedgerSearch(Searcher):
    """Tune's searcher; every decision is the scheduler's."""

    def __init__(self, scheduler: LedgerScheduler) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.broken: Exception | None = None  # the first error of the ledger or the disk
        self.deaths: dict[str, str] = {}  # what Ray says of processes that died, by Tune's ids of trials
        self._outcomes: dict[str, Outcome] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's config; None where Tune is to ask again, FINISHED where no trial is left."""
        with self._kept():
            launch = self.scheduler.next(trial_id)
            if isinstance(launch, Launch):
                return {
                    "record": launch.record.to_json(),
                    "attempt": launch.attempt,
                    "folder": str(launch.folder),
                }
            return str(Searcher.FINISHED) if launch is Idle.FINISHED else None
        return None  # it is broken

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take a report: an epoch's metrics, or how the attempt ended."""
        with self._kept():
            self._take(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take an attempt's end; without an outcome and with an error, its process has died."""
        with self._kept():
            if result is not None:
                self._take(trial_id, result)
            if (outcome := self._outcomes.pop(trial_id, None)) is not None:
                self.scheduler.end(trial_id, outcome)
            elif error:
                self.scheduler.lose(trial_id, self.deaths.pop(trial_id, ""))
            else:  # Tune stopped it because the user interrupts
                self.scheduler.abandon(trial_id)

    def poll_requests(self) -> None:
        """See `LedgerScheduler.poll_requests`."""
        with self._kept():
            self.scheduler.poll_requests()

    def _take(self, trial_id: str, result: dict[str, Any]) -> None:
        if "outcome" in result:
            self._outcomes[trial_id] = Outcome.from_json(result["outcome"])
        elif "step" in result:
            self.scheduler.report(trial_id, json.loads(result["metrics"]), result["step"])

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Store the first error, which is raised after Tune stops: Tune would blame the trial and continue."""
        try:
            yield
        except Exception as error:
            self.broken = self.broken or error

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher into its snapshots, which are never read back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: what Tune would restore is in the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see `save`."""
