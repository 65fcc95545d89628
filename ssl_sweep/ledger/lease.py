"""Who drives a sweep: one process at a time, wherever it runs.

On one machine a file lock says so at once. Between machines a lease in the ledger's database does: its holder raises a
counter every few seconds. Who finds a lease watches whether its counter moves, so that no two clocks are compared.
"""

import errno
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from ssl_sweep.ledger.entries import LEASE, LedgerError, Notes

BEAT_S = 5.0
WATCH_S = 20.0  # a counter that stands still for so long is a dead driver's
log = logging.getLogger(__name__)


class SweepLockedError(LedgerError):
    """Another driver is at work on this sweep."""


class NoFileLocksError(LedgerError):
    """The storage's file system cannot lock files."""


@contextmanager
def sole_driver(folder: Path, notes: Notes) -> Iterator["Lease"]:
    """Be a sweep's only driver while the block runs.

    Raises:
        SweepLockedError: there is one, here or on another machine.
    """
    with _file_lock(folder, notes):
        lease = Lease(notes)
        lease.acquire()
        try:
            yield lease
        finally:
            lease.release()


@contextmanager
def no_driver(folder: Path, notes: Notes) -> Iterator[None]:
    """Keep drivers away while the block runs; writes nothing to the ledger, whose disk may be full.

    Raises:
        SweepLockedError: there is one, here or on another machine.
    """
    with _file_lock(folder, notes):
        Lease(notes).check_free()
        yield


def driver_of(notes: Notes) -> dict[str, Any] | None:
    """Host and process of the driver that holds the lease, which may have died; None where none does."""
    held = notes.read().get(LEASE)
    return {"host": held["host"], "pid": held["pid"]} if held else None


class Holder(Protocol):
    """What keeps a lease: a sweep's `Notes`, or another place of small values that all see."""

    def read(self) -> Mapping[str, Any]:
        """All values by their names."""

    def swap(self, name: str, old: Any, new: Any) -> bool:
        """Set one where it still is the old one, or None; whether it was."""


class Lease:
    """The right to drive a sweep, kept by a thread until it is given back."""

    def __init__(self, notes: "Holder", say: Callable[[str], object] = log.warning) -> None:
        """`say` is told that a holder is watched for a sign of life, which takes seconds."""
        self._notes, self._say = notes, say
        self.owner = uuid.uuid4().hex
        self._held: dict[str, Any] | None = None  # as it was last written, here or by a holder that has died
        self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.taken_by: str | None = None  # who has taken it from us

    def acquire(self) -> None:
        """Take the lease; where its holder shows no sign of life, take it over. Raises SweepLockedError."""
        self._held = self.check_free()
        if not self._write():  # of two that find it free one is told so
            raise _locked_error(self._read() or {"host": "another machine", "pid": "?"})
        self._thread.start()

    def check_free(self) -> dict[str, Any] | None:
        """Return a dead holder's lease, or None without one. Raises SweepLockedError if the holder is alive."""
        held = self._read()
        if held is not None and not _has_died(held) and self._moves(held):
            raise _locked_error(self._read() or held)
        return self._read() and held

    def release(self) -> None:
        """Give it back, unless somebody has taken it."""
        self._ended.set()
        self._thread.join()
        self._notes.swap(LEASE, self._held, None)

    def _moves(self, held: Mapping[str, Any]) -> bool:
        """Whether its holder gives a sign of life."""
        self._say(f"{_who(held)} held this sweep; looking for a sign of life, for at most {WATCH_S:g} s")
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
        away = False
        while not self._ended.wait(BEAT_S):
            try:
                if not self._write():
                    held = self._read()
                    self.taken_by = _who(held) if held else "somebody"
                    return
                away = False
            except Exception as error:  # the thread's edge: a database that is away for a moment ends no sweep
                if not away:
                    log.warning("the ledger cannot be reached (%s); trying on", error)
                away = True

    def _read(self) -> dict[str, Any] | None:
        held: dict[str, Any] | None = self._notes.read().get(LEASE)
        return held

    def _write(self) -> bool:
        """Whether nobody else has written it since: a write that had to wait for the database overwrites nobody's."""
        self._count += 1
        mine = {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "pids": _pids()}
        mine["count"] = self._count
        if not self._notes.swap(LEASE, self._held, mine):
            return False
        self._held = mine
        return True


@contextmanager
def _file_lock(folder: Path, notes: Notes) -> Iterator[None]:
    """The lock goes with the process, however it ends."""
    lock = FileLock(folder / "driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _locked_error(driver_of(notes) or {"host": "this machine", "pid": "?"}) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        remedy = (
            "give --storage (or SSL_SWEEP_STORAGE) a file system with locks: a local disk, NFS 4, Lustre with -o flock"
        )
        raise NoFileLocksError(
            f"{folder}: two drivers could not be told apart here, there are no file locks ({error}); {remedy}"
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
    return f"process {held['pid']} on {held['host']}"


def _has_died(held: Mapping[str, Any]) -> bool:
    """Whether a holder was a process of this machine that is gone: then nobody need wait for a sign of life."""
    if held["pids"] is None or held["pids"] != _pids():
        return False
    with suppress(PermissionError):
        try:
            os.kill(held["pid"], 0)
        except ProcessLookupError:
            return True
    return False


def _pids() -> str | None:
    """Among which processes a process id is unique: this boot's, this container's; None where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
