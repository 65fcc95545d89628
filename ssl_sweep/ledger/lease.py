"""Ensures that one process at a time drives a sweep, on whichever machine.

On one machine, a file lock tells at once. Between machines, a lease in the ledger's database does: its holder raises a
counter every few seconds. A process that finds a lease watches its counter, so that no two clocks are compared.
"""

import errno
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from ssl_sweep.ledger.entries import LEASE, LedgerError, Notes
from ssl_sweep.trialdir.damage import readable
from ssl_sweep.trialdir.processes import Process, this_process

BEAT_S = 5.0
WATCH_S = 20.0  # a driver whose counter does not move for this long is dead
log = logging.getLogger(__name__)


class SweepLockedError(LedgerError):
    """Another driver runs this sweep."""


class NoFileLocksError(LedgerError):
    """The storage's file system cannot lock files."""


@contextmanager
def sole_driver(folder: Path, notes: Notes) -> Iterator["Lease"]:
    """Be a sweep's only driver while the block runs.

    Raises:
        SweepLockedError: another driver runs it, here or on another machine.
    """
    with _file_lock(folder, notes):
        lease = Lease(notes)
        lease.acquire()
        try:
            yield lease
        finally:
            lease.release()


@contextmanager
def no_driver(folder: Path, notes: Notes | None) -> Iterator[None]:
    """Keep drivers out while the block runs; writes nothing to the ledger, whose disk may be full.

    notes: None where the ledger is lost, and with it the leases of other machines.

    Raises:
        SweepLockedError: a driver runs the sweep, here or on another machine.
    """
    with _file_lock(folder, notes):
        if notes is not None:
            Lease(notes).check_free()
        yield


def driver_of(notes: Notes) -> dict[str, Any] | None:
    """Host, pid and state (running, stopped or gone; None on another machine) of the lease's holder; None without."""
    held = notes.read().get(LEASE)
    return {"host": held["host"], "pid": held["pid"], "state": _holder(held).state} if held else None


def is_driven(notes: Notes) -> bool:
    """Whether a driver holds the lease; one on another machine may have died."""
    held = notes.read().get(LEASE)
    return held is not None and _holder(held).state != "gone"


class LeaseStore(Protocol):
    """Where a lease is stored: a sweep's `Notes`, or other shared named values."""

    def read(self) -> Mapping[str, Any]:
        """Read all values by name."""

    def swap(self, name: str, old: Any, new: Any) -> bool:
        """Set one if it still is `old` (None: not set); returns whether it was."""


class Lease:
    """The right to drive a sweep; a thread renews it until it is released."""

    def __init__(self, notes: LeaseStore, say: Callable[[str], object] = log.warning) -> None:
        """say: gets a message before another holder is watched, which takes seconds."""
        self._notes, self._say = notes, say
        self.owner = uuid.uuid4().hex
        self._held: dict[str, Any] | None = None  # as it was last written, here or by a dead holder
        self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.taken_by: str | None = None  # who has taken it over

    def acquire(self) -> None:
        """Take the lease, also from a dead holder. Raises SweepLockedError."""
        self._held = self.check_free()
        if not self._write():  # another process took it first
            raise _locked_error(self._read() or {"host": "another machine", "pid": "?"})
        self._thread.start()

    def check_free(self) -> dict[str, Any] | None:
        """Return a dead holder's lease, or None without one. Raises SweepLockedError if the holder is alive."""
        held = self._read()
        if held is not None and _holder(held).state != "gone" and self._moves(held):
            raise _locked_error(self._read() or held)
        return self._read() and held

    def release(self) -> None:
        """Give the lease back unless it was taken over."""
        self._ended.set()
        self._thread.join()
        self._notes.swap(LEASE, self._held, None)

    def _moves(self, held: Mapping[str, Any]) -> bool:
        """Whether the holder's counter moves."""
        self._say(f"{_who(held)} held this sweep; checking for at most {WATCH_S:g} s whether it is alive")
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            time.sleep(BEAT_S / 5)
            now = self._read()
            if now is None:
                return False
            if (now["owner"], now["count"]) != (held["owner"], held["count"]):
                return True
        return False

    def _beat(self) -> None:
        unreachable = False
        while not self._ended.wait(BEAT_S):
            try:
                if not self._write():
                    held = self._read()
                    self.taken_by = _who(held) if held else "somebody"
                    return
                unreachable = False
            except Exception as error:  # the thread's edge: a short outage of the database must not end the sweep
                if not unreachable:
                    log.warning("the ledger cannot be reached (%s); retrying", error)
                unreachable = True

    def _read(self) -> dict[str, Any] | None:
        held: dict[str, Any] | None = self._notes.read().get(LEASE)
        return held

    def _write(self) -> bool:
        """Renew the lease; returns whether nobody else has written it meanwhile, however long the write took."""
        self._count += 1
        mine = {"owner": self.owner, **asdict(this_process()), "count": self._count}
        if not self._notes.swap(LEASE, self._held, mine):
            return False
        self._held = mine
        return True


@contextmanager
def _file_lock(folder: Path, notes: Notes | None) -> Iterator[None]:
    """Hold the file lock, which the system releases however the process ends."""
    lock = FileLock(folder / "driver.lock")
    try:
        with readable(folder / "driver.lock", "remove it: it holds nothing"):
            lock.acquire(timeout=0)
    except Timeout:
        held = notes.read().get(LEASE) if notes is not None else None
        raise _locked_error(held or {"host": "this machine", "pid": "?"}) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        remedy = (
            "give --storage (or SSL_SWEEP_STORAGE) a file system with locks: a local disk, NFS 4, Lustre with -o flock"
        )
        raise NoFileLocksError(
            f"{folder}: there are no file locks ({error}), so that two drivers could run at once; {remedy}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _locked_error(held: Mapping[str, Any]) -> SweepLockedError:
    return SweepLockedError(
        f"another driver is running this sweep, {_who(held)}; `ssl-sweep status` shows it, `stop` ends it"
    )


def _who(held: Mapping[str, Any]) -> str:
    holder = _holder(held)
    return holder.described(holder.state)


def _holder(held: Mapping[str, Any]) -> Process:
    """The process of a lease. Earlier versions did not write when it began."""
    return Process(held["host"], held["pid"], held.get("pids"), held.get("started"))
