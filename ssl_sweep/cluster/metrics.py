"""Prometheus metrics of a running sweep, which the Ray agent of a node serves as `ray_ssl_sweep_...`."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache

from ray.util import metrics

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.plan import count_trials
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.states import TrialState

EVERY_S = 10.0  # Ray's processes send values to their node's agent as often
# CREATED trials count as WAITING, as do those that the ledger does not hold yet
STATES = ("WAITING", *(str(state) for state in TrialState if state not in (TrialState.CREATED, TrialState.INTERRUPTED)))
log = logging.getLogger(__name__)


class SweepMetrics:
    """An `Observer` that exports a sweep's numbers from a thread. Errors of the thread never reach the sweep.

    No label holds a trial's id, which would make one series for each trial.
    """

    def __init__(self, ledger: Ledger, backlog: Callable[[], int]) -> None:
        """backlog: counts the events that MLflow lacks."""
        self._ledger, self._backlog = ledger, backlog
        self._total, self._sweep = count_trials(ledger.spec), ledger.spec.name
        self._active_at = time.monotonic()
        self._signs: dict[str, float] = {}  # when each running trial last started or reported
        self._rates: dict[str, float] = {}  # images/s in its last report
        self._seconds = defaultdict[str, float](float)  # by stage
        self._exported_seconds = defaultdict[str, float](float)
        self._instruments: _Instruments | None = None
        self._closing, self._exporting = threading.Event(), threading.Lock()

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Export the metrics while the block runs."""
        threading.Thread(target=self._export_regularly, name="metrics", daemon=True).start()
        try:
            yield
        finally:
            with self._exporting:  # setting a metric after ray.shutdown() ends the process
                self._closing.set()

    def started(self, trial: Trial) -> None:
        self._active_at = self._signs[trial.trial_id] = time.monotonic()
        self._rates.pop(trial.trial_id, None)  # an earlier attempt's

    def reported(self, trial: Trial, report: MetricsReported) -> None:
        now = time.monotonic()
        self._seconds[report.stage] += now - self._signs.get(trial.trial_id, now)
        rate = next((value for name, value in report.metrics.items() if name.endswith("/images_per_second")), 0.0)
        self._rates[trial.trial_id] = rate
        self._active_at = self._signs[trial.trial_id] = now

    def ended(self, trial: Trial) -> None:
        self._active_at = time.monotonic()
        self._signs.pop(trial.trial_id, None)
        self._rates.pop(trial.trial_id, None)

    def _export_regularly(self) -> None:
        warned = False
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                self._export(self._backlog())
            except Exception:  # the thread's edge: metrics must not end a sweep
                log.log(logging.DEBUG if warned else logging.WARNING, "no metrics of this sweep", exc_info=True)
                warned = True
            # counting a long backlog is slow: it may take at most a twentieth of the time
            self._closing.wait(max(EVERY_S, 20 * (time.monotonic() - began)))

    def _export(self, backlog: int) -> None:
        trials = [trial for choice in self._ledger.choices for trial in choice.trials]
        with self._exporting:
            if self._closing.is_set():
                return
            self._instruments = instruments = self._instruments or _Instruments()
            sweep = {"sweep": self._sweep}
            for state, number in self._count(trials).items():
                instruments.trials.set(number, {**sweep, "state": state})
            instruments.images_per_second.set(self._images_per_second(trials), sweep)
            instruments.seconds_since_report.set(time.monotonic() - self._active_at, sweep)
            for stage, seconds in dict(self._seconds).items():
                if seconds > self._exported_seconds[stage]:
                    instruments.stage_seconds.inc(seconds - self._exported_seconds[stage], {**sweep, "stage": stage})
                    self._exported_seconds[stage] = seconds
            instruments.spool_events.set(backlog, sweep)

    def _images_per_second(self, trials: Collection[Trial]) -> float:
        # a trial that waits for another's pretraining repeats its reports, so that equal rates count once
        return sum({self._rates.get(trial.trial_id, 0.0) for trial in trials if trial.state == TrialState.RUNNING})

    def _count(self, trials: Collection[Trial]) -> dict[str, int]:
        """The number of trials in each state, zeros included."""
        known = Counter(str(trial.state) for trial in trials)
        waiting = max(0, self._total - len(trials)) + known[TrialState.CREATED]
        return {state: waiting if state == "WAITING" else known[state] for state in STATES}


class _Instruments:
    def __init__(self) -> None:
        self.trials = metrics.Gauge("ssl_sweep_trials", "Trials of a running sweep by state.", ("sweep", "state"))
        self.images_per_second = metrics.Gauge(
            "ssl_sweep_images_per_second", "Images a second that running trials last reported, summed.", ("sweep",)
        )
        self.seconds_since_report = metrics.Gauge(
            "ssl_sweep_seconds_since_report",
            "Seconds since any trial of a running sweep started, reported or ended.",
            ("sweep",),
        )
        self.stage_seconds = metrics.Counter(
            "ssl_sweep_stage_seconds", "Seconds that trials spent up to a report, by its stage.", ("sweep", "stage")
        )
        self.spool_events = metrics.Gauge(
            "ssl_sweep_spool_events", "Events of a running sweep that MLflow has not taken yet.", ("sweep",)
        )


def export_gpu_memory(sweep: str) -> None:
    """Export how much memory this trial's process holds on its GPU, if it has one."""
    import torch

    if torch.cuda.is_available():
        with suppress(Exception):  # metrics must not fail a trial
            _gpu_memory().set(torch.cuda.memory_reserved(), {"sweep": sweep})


@cache
def _gpu_memory() -> metrics.Gauge:
    return metrics.Gauge("ssl_sweep_gpu_memory_bytes", "GPU memory that a trial's process holds.", ("sweep",))
