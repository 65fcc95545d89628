"""Signals that end a sweep so that it can be resumed: Ctrl-C, SIGTERM, which stops a job, and SIGHUP of a terminal."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ssl_sweep.cluster.scheduler import LedgerScheduler


@contextmanager
def interrupts_noted(scheduler: LedgerScheduler) -> Iterator[None]:
    """Note these signals before and after Tune handles them: while Ray starts they could end the process.

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
def passed_to_tune(scheduler: LedgerScheduler) -> Iterator[None]:
    """Have SIGTERM and SIGHUP end Tune as Ctrl-C does. Tune handles SIGUSR1 in the same way."""

    def end(number: int) -> None:
        scheduler.interrupted = True
        if callable(signal.getsignal(signal.SIGUSR1)):  # Tune runs
            os.kill(os.getpid(), signal.SIGUSR1)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}  # Tune changes these
    with _handled(end, signal.SIGTERM, signal.SIGHUP):
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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
