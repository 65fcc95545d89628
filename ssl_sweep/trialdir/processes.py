"""Which process is meant by a record, and whether it runs: known exactly of the processes of this machine."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

State = Literal["running", "stopped", "gone"]
REMEDIES = {
    "stopped": ", which is stopped: `kill -CONT {pid}` there lets it go on, `kill -KILL {pid}` ends it",
    "gone": ", which is gone",
}


@dataclass(frozen=True)
class Process:
    """A process. The fields are the keys of the files and of the ledger's lease."""

    host: str
    pid: int
    pids: str | None = None  # the boot and the container in which the id counts; None if the system does not tell
    started: int | None = None  # in clock ticks since the boot; None if the system does not tell

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def described(self, state: str | None) -> str:
        """The process, and what can be done if it does not run."""
        return f"{self}{REMEDIES.get(state or '', '').format(pid=self.pid)}"

    @property
    def state(self) -> State | None:
        """Whether it runs, is stopped (by SIGSTOP or a debugger), or gone; None if it is not one of this machine."""
        if self.pids is None or self.pids != scope():
            return None
        try:
            with suppress(PermissionError):  # another user's
                os.kill(self.pid, 0)
        except ProcessLookupError:
            return "gone"
        letter, started = _stat(self.pid)
        is_other = None not in (started, self.started) and started != self.started  # the id was given again
        if letter in ("Z", "X") or is_other:
            return "gone"
        return "stopped" if letter in ("T", "t") else "running"


def this_process() -> Process:
    """The process that calls."""
    return Process(socket.gethostname(), os.getpid(), scope(), _stat(os.getpid())[1])


@cache
def scope() -> str | None:
    """Where the ids of this machine's processes count: this boot and this container; None if it cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _stat(pid: int) -> tuple[str, int | None]:
    """The letter of a process's state, and when it began; what is hidden is taken for a running process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "R", None
    return fields[0], int(fields[19])
