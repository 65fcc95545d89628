"""What `ssl-sweep doctor` finds about a storage, and the mends of single files."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ssl_sweep.knobs.objective import COST
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.trialdir.atomic import write_bytes
from ssl_sweep.trialdir.damage import ASIDE, DamagedFileError, set_aside
from ssl_sweep.trialdir.events import AttemptStarted, Ended, Event, StageFinished
from ssl_sweep.trialdir.journal import JOURNAL, decode, encode


@dataclass(frozen=True)
class Finding:
    """One check of a storage: what was checked, what was found, and what can be made anew from what."""

    check: str
    ok: bool
    found: str
    source: str | None = None  # what it can be rebuilt from; None where it is whole, or lost for good
    mend: Callable[[], str] | None = field(default=None, repr=False)  # does so, and says what it has done


def keep_damaged(path: Path) -> str:
    """Keep a damaged file beside itself, before it is replaced; returns the words about it."""
    if not path.exists():
        return ""
    if path.is_dir():
        return f"; the old one is {set_aside(path).name}"
    number = 1
    while (aside := path.with_name(f"{path.name}{ASIDE}{number}")).exists():
        number += 1
    try:
        os.link(path, aside)  # the file keeps its name until the new one replaces it
    except OSError:
        with suppress(PermissionError):
            shutil.copy2(path, aside)
            return f"; the old one is {aside.name}"
        return f"; the old one is {set_aside(path).name}"
    return f"; the old one is {aside.name}"


def good_lines(folder: Path) -> list[tuple[bytes, Event]]:
    """The lines of a journal and their events, without the lines that are none."""
    path, good = folder / JOURNAL, []
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    for line in (line.strip(b"\0") for line in lines):
        with suppress(DamagedFileError):
            good.append((line + b"\n", decode(line, path, 0)))
    return good


def mend_journal(folder: Path, trial: Trial, keys: Mapping[str, str]) -> str:
    """Write a trial's journal anew: its lines that can be read, and what the ledger knows of its end.

    keys: of the finished stages, as far as they are known.
    """
    good = good_lines(folder)
    events = [event for _, event in good]
    start = [AttemptStarted(attempt=trial.attempts)] if trial.attempts and not _has(events, AttemptStarted) else []
    rest: list[Event] = []
    if trial.ended and not (events and isinstance(events[-1], Ended) and events[-1].state == trial.state):
        rest = [
            *_lost_stages(events, trial, keys),
            Ended(state=trial.state, reason=trial.reason, message=trial.message),
        ]
    words = keep_damaged(folder / JOURNAL)
    lines = [*map(encode, start), *(line for line, _ in good), *map(encode, rest)]
    write_bytes(folder / JOURNAL, b"".join(lines))
    return f"kept {len(good)} events, added {len(lines) - len(good)} from the ledger{words}"


def _has(events: Sequence[Event], kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for event in events)


def _lost_stages(events: Sequence[Event], trial: Trial, keys: Mapping[str, str]) -> list[Event]:
    """The finished stages of a complete trial that its journal lacks; how long they took is lost."""
    results: dict[str, dict[str, float]] = {}
    for name, value in (trial.results or {}).items():
        stage, _, metric = name.rpartition("/")
        results.setdefault(stage, {})[metric] = value
    known = {event.stage for event in events if isinstance(event, StageFinished)} | {COST.strip("/")}
    return [
        StageFinished(stage=stage, key=keys.get(stage), seconds=float("nan"), results=found)
        for stage, found in results.items()
        if stage not in known
    ]
