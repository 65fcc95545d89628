"""Exit codes of the commands that run a sweep, for scripts and the service."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How `ssl-sweep run`, `resume` or `extend` ended."""

    COMPLETE = 0  # every trial is complete or pruned
    INCOMPLETE = 1  # some trials are not; also Python's own code for an unexpected error
    USER_ERROR = 2  # the spec, the options or the settings must change
    BROKEN_CLUSTER = 69  # Ray died while the sweep ran, which `resume` continues; EX_UNAVAILABLE of sysexits.h
    TRY_AGAIN = 75  # another driver runs the sweep, or no node has the resources now; EX_TEMPFAIL of sysexits.h
    INTERRUPTED = 130  # interrupted, stopped or paused
