"""The states of a trial, as ledger, journals and MLflow's tags store them."""

from enum import StrEnum


class TrialState(StrEnum):
    """The state of a trial; all but CREATED and RUNNING are also the end of an attempt."""

    CREATED = "CREATED"  # waits for its first or next attempt
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"  # its `reason` says why
    STOPPED = "STOPPED"
    PAUSED = "PAUSED"  # the next driver of its sweep continues it
    INTERRUPTED = "INTERRUPTED"  # an attempt only: its driver ended


# a trial in one of these states runs again only on request
ENDED = (TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED, TrialState.STOPPED)
