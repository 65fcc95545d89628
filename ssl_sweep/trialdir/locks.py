"""File locks with a lease: their holder is known, and one that gives no sign for minutes loses its turn.

The operating system releases a lock when its holder dies, but not while it is stopped, and not always when its machine
is gone. A lost lock is not taken away: the next holder takes a turn of its own, with a lock and with files of other
names, so that two processes never write the same file. The former holder finds out when it runs again.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread

from filelock import FileLock, Timeout  # torch depends on it: every machine with torch has it

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir import waits, watchdog
from ssl_sweep.trialdir.processes import this_process

LEASE_S = 300.0  # a holder that gives no sign for so long loses its turn
GONE_S = 5.0  # the same for one that is known to be gone, whose lock somebody else's copy of it may keep
BEAT_S = 5.0
HANG_S = 3600.0  # a holder whose trial makes no step for so long gives no more signs
POLL_S = 0.5


class LockHeldError(UserError, TimeoutError):
    """Another process holds a lock for too long."""


@contextmanager
def briefly_locked(path: Path, patience_s: float) -> Iterator[None]:
    """Hold a lock that its holders keep for seconds. Raises LockHeldError."""
    lock, alive = FileLock(path), path.with_name(f"{path.name}.alive")
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        holder = watchdog.process_of(alive)
        who = holder.described(holder.state) if holder else "another process"
        raise LockHeldError(f"{path} has been held for {patience_s:g} s by {who}") from None
    try:
        alive.write_text(json.dumps(asdict(this_process())))
        yield
    finally:
        lock.release()


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Give whether this process got the lock; it is held while the block runs."""
    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(timeout=0)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def renewed(alive: Path) -> Iterator[None]:
    """While the block runs, say in a file that this process is at work; a thread renews it."""
    alive.write_text(json.dumps(asdict(this_process())))
    ended = Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            if watchdog.silence_s() < HANG_S:
                with suppress(OSError):  # the next one may succeed
                    alive.touch()

    thread = Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def locked(path: Path, what: str) -> Iterator[int]:
    """Hold a lock while the block runs, and give the number of the turn, 1 where no holder has lost its lock.

    what: for what others wait, in words.
    """
    turn = 1
    while _lock_of(path, turn + 1).exists():
        turn += 1
    wait: LockWait | None = None
    while True:
        lock = _lock_of(path, turn)
        alive = lock.with_name(f"{lock.name}.alive")
        with try_lock(lock) as is_ours:
            if is_ours:
                if wait is not None:
                    wait.end()
                with renewed(alive):
                    yield turn
                return
        wait = wait or LockWait(what, alive)
        if wait.is_over():
            wait, turn = None, turn + 1


class LockWait:
    """The wait for a lock that another process holds: noted for `status`, and over when the holder gives no sign."""

    def __init__(self, what: str, alive: Path, *signs: Path) -> None:
        """alive: the holder's file. signs: other files that it writes now and then."""
        self._what, self._alive, self._signs = what, alive, signs
        self._since = time.time()
        self._noted: waits.Wait | None = None
        self._last: tuple[int | None, ...] = ()
        self._silent_s = 0.0  # counted in polls: while this process is stopped, others may be as well

    def is_over(self, trial: str | None = None) -> bool:
        """Wait a moment; returns whether the holder has lost its turn. trial: the holder's."""
        holder = watchdog.process_of(self._alive)
        state = holder.state if holder else None
        self._note(waits.Wait(self._what, self._since, holder, state, trial))
        watchdog.heartbeat()
        time.sleep(POLL_S)
        # times are only compared with each other: the clocks of two hosts differ
        now = tuple(_written(path) for path in (self._alive, *self._signs))
        self._silent_s = self._silent_s + POLL_S if now == self._last else 0.0
        self._last = now
        return self._silent_s >= (GONE_S if state == "gone" else LEASE_S)

    def end(self) -> None:
        """Note that the wait is over."""
        if (folder := watchdog.folder()) is not None:
            waits.clear(folder)

    def _note(self, wait: waits.Wait) -> None:
        if wait == self._noted:
            return
        if self._noted is None or wait.state != self._noted.state:
            waits.log.info("%s", wait)
        self._noted = wait
        if (folder := watchdog.folder()) is not None:
            waits.note(wait, folder)


def _lock_of(path: Path, turn: int) -> Path:
    return path if turn == 1 else path.with_name(f"{path.name}.{turn}")


def _written(path: Path) -> int | None:
    """When a file was last written, in ns; None if there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
