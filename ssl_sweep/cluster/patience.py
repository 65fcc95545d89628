"""How long a driver waits for trials, nodes and Ray's head. Knows no Ray."""

import time

from ssl_sweep.storage.layout import Storage

SILENT_TRIAL_S = 45.0  # a trial without a sign of life for so long is named, and ended if it is to stop
SILENT_TRIAL_IN_A_BUCKET_S = 600.0  # where the heartbeats of trials stay on their nodes: only reports are signs
LONGEST_STOP_S = 3600.0  # from a request to stop until a trial must have reported
UNWIND_S = 30.0  # for Tune to end its trials
DEAD_UNWIND_S = 10.0  # the same, where Ray is dead
NODES_S = 600.0  # for nodes on which the trials fit
SILENT_HEAD_S = 20.0  # a head that is silent for so long is named
LOST_HEAD_S = 55.0  # and given up
MAX_TICK_S = 1.0


def silent_s(storage: Storage, sweep: str) -> float:
    """Seconds after which a trial of this sweep counts as silent."""
    return SILENT_TRIAL_S if storage.shared_stages(sweep) is not None else SILENT_TRIAL_IN_A_BUCKET_S


class AwakeClock:
    """Seconds that this process has run. Time in which it was stopped, or the machine slept, does not count."""

    def __init__(self) -> None:
        self.now = 0.0
        self._last = time.monotonic()

    def tick(self) -> None:
        """Go on. Called several times a second."""
        now = time.monotonic()
        self.now += min(now - self._last, MAX_TICK_S)
        self._last = now
