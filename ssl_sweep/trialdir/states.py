"""The states of a trial, by the words that ledger, journals and MLflow's tags hold."""

from enum import StrEnum


class TrialState(StrEnum):
    """What has become of a trial; all but CREATED and RUNNING are also the end of an attempt."""

    CREATED = "CREATED"  # it has not run yet, or is to run again
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"  # its reason says why
    STOPPED = "STOPPED"
    PAUSED = "PAUSED"  # the next driver of its sweep goes on with it
    INTERRUPTED = "INTERRUPTED"  # of an attempt only: its driver ended


# a trial in one of these runs again only when somebody asks for it
ENDED = (TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED, TrialState.STOPPED)
