"""Signals that end a sweep so that it can be resumed: Ctrl-C, SIGTERM, which stops a job, and SIGHUP of a terminal."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ssl_sweep.cluster.scheduler import LedgerScheduler


@contextmanager
def interrupts_noted(scheduler: LedgerScheduler) -> Iterator[None]:
    """Note these signals, which could end the process while Ray starts.

    A second one acts at once.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def note(number: int) -> None:
        if scheduler.interrupted:
            signal.signal(number, before[signal.Signals(number)])
            os.kill(os.getpid(), number)
        scheduler.interrupted = True

    with _handled(note, *before):
        yield


@contextmanager
def noted_after_ray(scheduler: LedgerScheduler) -> Iterator[None]:
    """Note SIGTERM and SIGHUP again, once Ray has started: it has set a handler of its own."""

    def note(_: int) -> None:
        scheduler.interrupted = True

    with _handled(note, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def hangups_held() -> Iterator[None]:
    """Hold SIGHUP back while the block runs; the processes that it starts never get one.

    A terminal that closes sends it to all processes of the job, and the driver needs Ray to end its trials.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled(handle: Callable[[int], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals while the block runs; one that is ignored, as `nohup` has SIGHUP ignored, stays ignored.

    Only the first SIGHUP counts: the kernel sends one and the shell another, the latter maybe while the sweep ends.
    """
    before = {number: signal.getsignal(number) for number in numbers}

    def received(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        handle(number)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, received)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)
