"""The states of a submitted sweep, as the service's database and its responses have them."""

from enum import StrEnum


class SweepState(StrEnum):
    """The state of a submitted sweep."""

    QUEUED = "QUEUED"
    LAUNCHING = "LAUNCHING"  # its driver's job is submitted to Ray
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"  # its `reason` says why
    STOPPED = "STOPPED"
    PAUSED = "PAUSED"


WAITING = (SweepState.QUEUED,)
ACTIVE = (SweepState.LAUNCHING, SweepState.RUNNING)
ENDED = (SweepState.COMPLETE, SweepState.FAILED, SweepState.STOPPED, SweepState.PAUSED)
