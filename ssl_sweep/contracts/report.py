"""Runs the checks of a plugin in their order, each within a time, and says what holds and what fails in words."""

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from ssl_sweep.contracts.contract import Contract, ContractError, NotChecked
from ssl_sweep.errors import UserError
from ssl_sweep.plugins import catalog
from ssl_sweep.plugins.catalog import Kind, PluginError

Result = Literal["holds", "fails", "not checked"]
IMPORTED = "it can be imported"
MAX_LINES = 3  # of an exception's message


class TimedOut(BaseException):
    """A check has run for too long; no `except Exception` of a plugin catches it."""


@dataclass(frozen=True)
class Subject:
    """One thing to check: `local/mine` of the kind methods."""

    kind: Kind
    name: str
    contract: Contract


@dataclass(frozen=True)
class Finding:
    """What one check has found. `place` is the line of the plugin's file; `trace` is for its author."""

    kind: Kind
    name: str
    check: str
    result: Result
    message: str = ""
    place: str | None = None
    seconds: float = 0.0
    trace: str = ""


def run(subject: Subject, limit_s: float, begin: Callable[[str], None]) -> Iterator[Finding]:
    """One finding for each check; only one where it cannot be imported.

    Args:
        subject: a method, an evaluation, an encoder or a source.
        limit_s: seconds that each check may take.
        begin: called with the words of a check before it is run.
    """
    loaded: list[Any] = []

    def load() -> None:
        plugin = subject.contract.load(subject.name)
        loaded.extend((plugin, subject.contract.checks_of(plugin)))

    begin(IMPORTED)
    yield (imported := _finding(subject, IMPORTED, load, limit_s))
    if imported.result != "holds":
        return
    plugin, checks = loaded
    lacking: dict[Callable[[Any], None], str] = {}  # checks that do not hold, and what their dependents are told
    for check in checks:
        if missing := [lacking[need] for need in check.needs if need in lacking]:
            lacking[check.run] = missing[0]
            yield Finding(subject.kind, subject.name, check.title, "not checked", missing[0])
            continue
        begin(check.title)
        finding = _finding(subject, check.title, partial(check.run, plugin), limit_s)
        if finding.result != "holds":
            lacking[check.run] = finding.message if finding.result == "not checked" else f"needs: {check.title}"
        yield finding


def _finding(subject: Subject, check: str, work: Callable[[], None], limit_s: float) -> Finding:
    """Do the work of a check, and put what it raises into words."""
    started = time.monotonic()
    result: Result = "fails"
    message, place, trace = "", None, ""
    try:
        with limited(limit_s), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            work()
        result = "holds"
    except NotChecked as reason:
        result, message = "not checked", str(reason)
    except (Exception, TimedOut) as error:
        found_at = None if isinstance(error, PluginError) else place_of(error, _files_of(subject))
        place = (error.place if isinstance(error, ContractError) else None) or found_at
        message, trace = _words(error, found_at, limit_s), "".join(traceback.format_exception(error))
        if isinstance(error, ContractError) and error.__cause__ is not None:
            place = found_at or place
    return Finding(subject.kind, subject.name, check, result, message, place, time.monotonic() - started, trace)


def _words(error: BaseException, place: str | None, limit_s: float) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, TimedOut):
        remedy = "declare a smaller one in CHECK, or give more time by --timeout"
        return f"it has run for {limit_s:g} s, and was ended; {remedy}"
    lines = str(error).splitlines()[:MAX_LINES]
    where = "the plugin" if place is not None else "the step"
    return f"{where} raises {type(error).__name__}: {' '.join(lines)}; --verbose shows the trace"


def place_of(error: BaseException, files: Path) -> str | None:
    """`FILE:LINE` of the innermost frame in `files`, a file or a folder, of an error or of what has caused it."""
    place = None
    chain: BaseException | None = error
    while chain is not None:
        for frame, line in traceback.walk_tb(chain.__traceback__):
            if Path(frame.f_code.co_filename).is_relative_to(files):
                place = f"{frame.f_code.co_filename}:{line}"
        chain = chain.__cause__
    return place


def _files_of(subject: Subject) -> Path:
    """The file or the folder of the subject's own code."""
    kind, name = subject.kind, subject.name.partition(":")[0]
    if name.startswith(catalog.LOCAL):
        return catalog.local_folder() or Path()
    if name in catalog.names(kind):
        module = catalog.load(kind, name)
        file = Path(module.__file__ or ".")
        return file.parent if "." in module.__name__ or hasattr(module, "__path__") else file
    own = {"encoders": "models", "sources": "data"}.get(kind, kind)
    return Path(__file__).parents[1] / own


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TimedOut` in the main thread after so long; another thread has no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise TimedOut

    handler = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
