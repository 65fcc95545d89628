"""Leaves Ray in bounded time, also one that is dead."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import ray

from ssl_sweep.cluster import compat

SHUTDOWN_S = 30.0


def _nothing() -> None:
    """Note nothing: the logs are another's."""


class JoinedRay:
    """The Ray that this process uses."""

    abandoned = False  # in this process, whose Ray cannot be used again

    def __init__(self, *, owned: bool) -> None:
        """owned: whether this process started it, or joined it, for this sweep alone."""
        self.owned = owned
        self.note_death: Callable[[], None] = _nothing  # call it when a process of Ray's has died: its logs are kept

    def abandon(self) -> None:
        """Give Ray up, which some thread still waits for: end its processes on this machine, and do not wait."""
        if not self.owned:
            return
        JoinedRay.abandoned = True
        atexit.register(end_process, os.EX_UNAVAILABLE)
        compat.leave_dead_ray()

    def shut_down(self) -> None:
        """Leave Ray."""
        if not self.owned or JoinedRay.abandoned:
            return
        leaving = threading.Thread(target=ray.shutdown, name="shutdown", daemon=True)
        leaving.start()
        leaving.join(SHUTDOWN_S)
        if leaving.is_alive():
            self.abandon()


def end_process(code: int) -> None:
    """End a process with an abandoned Ray at once: its interpreter's own end crashes in threads that wait for Ray."""
    if JoinedRay.abandoned:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a closed pipe
                stream.flush()
        os._exit(code)
