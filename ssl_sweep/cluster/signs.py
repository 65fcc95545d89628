"""Knows since when each running trial has given no sign of life: neither a report nor a heartbeat in its folder."""

import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ssl_sweep.cluster.patience import AwakeClock, silent_s
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.storage.layout import Storage
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.watchdog import HEARTBEAT_FILE, process_of


@dataclass
class Sign:
    """The last sign of life of a trial."""

    trial: Trial
    at: float  # on the clock of the driver
    wall: datetime
    beat: int | None  # when its heartbeat was written, in ns; an earlier attempt has left one
    begun: bool  # whether it has given any
    named: bool = False  # whether a user has been told that it is silent since


class TrialSigns:
    """An `Observer` of the running trials."""

    def __init__(self, storage: Storage, sweep: str, clock: AwakeClock) -> None:
        self._storage, self._sweep, self._clock = storage, sweep, clock
        self.patience_s = silent_s(storage, sweep)
        self._signs: dict[str, Sign] = {}
        self._lock = threading.Lock()  # Tune's thread observes, the driver's asks

    def started(self, trial: Trial) -> None:
        self._note(trial, begun=False)

    def reported(self, trial: Trial, report: MetricsReported) -> None:
        self._note(trial, begun=True)

    def ended(self, trial: Trial) -> None:
        with self._lock:
            self._signs.pop(trial.trial_id, None)

    def silent(self, running: Collection[str]) -> list[Sign]:
        """Those of the running trials, given by their ids, that have given no sign for `patience_s`."""
        with self._lock:
            for sign in self._signs.values():
                if (beat := self._beat(sign.trial)) != sign.beat:
                    sign.at, sign.wall, sign.named = self._clock.now, datetime.now(), False
                    sign.beat, sign.begun = beat, True
            known = [self._signs[trial_id] for trial_id in running if trial_id in self._signs]
            return [sign for sign in known if self._clock.now - sign.at > self.patience_s]

    def describe(self, sign: Sign) -> str:
        """`choice 1 seed 0 (trial 1a2b3c4d) has given no sign of life since 13:37:02: process 123 on host`"""
        trial, since = sign.trial, f"{sign.wall:%H:%M:%S}"
        who = f"choice {trial.choice} seed {trial.seed} (trial {trial.trial_id[:8]})"
        if not sign.begun:
            return f"{who} has waited since {since} for room on a node, or for its process to start"
        process = process_of(self._folder(trial) / HEARTBEAT_FILE)
        named = f": {process.described(process.state)}" if process is not None else ""
        return f"{who} has given no sign of life since {since}{named}"

    def _note(self, trial: Trial, *, begun: bool) -> None:
        with self._lock:
            self._signs[trial.trial_id] = Sign(trial, self._clock.now, datetime.now(), self._beat(trial), begun)

    def _beat(self, trial: Trial) -> int | None:
        with suppress(OSError):
            return (self._folder(trial) / HEARTBEAT_FILE).stat().st_mtime_ns
        return None

    def _folder(self, trial: Trial) -> Path:
        return self._storage.trial(self._sweep, trial.trial_id)
