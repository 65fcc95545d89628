"""Who waits for whom: a file in the folder of a trial while it waits for another process, for `status` and the display.

Without a trial, as in a command, there is no file: then the log alone says it.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssl_sweep.trialdir.atomic import replacing
from ssl_sweep.trialdir.processes import Process

WAITS = "waits.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wait:
    """A wait of a trial for another process. The fields are the keys of the file."""

    what: str  # for what
    since: float  # Unix seconds
    holder: Process | None  # None: unknown
    state: str | None = None  # the holder's, as the waiting process sees it
    trial: str | None = None  # the holder's

    def __str__(self) -> str:
        whose = f" of trial {self.trial[:8]}" if self.trial else ""
        who = self.holder.described(self.state) if self.holder else "an unknown process"
        return f"waits since {time.strftime('%H:%M:%S', time.localtime(self.since))} for {self.what}{whose}: {who}"


def note(wait: Wait, folder: Path) -> None:
    """Write down that the trial of this folder waits."""
    with replacing(folder / WAITS) as partial:
        partial.write_text(json.dumps(asdict(wait)))


def clear(folder: Path) -> None:
    """Write down that the trial of this folder waits no more."""
    (folder / WAITS).unlink(missing_ok=True)


def read(folder: Path) -> Wait | None:
    """What the trial of this folder waits for, with the holder's state of now if it is a process of this machine."""
    try:
        fields: dict[str, Any] = json.loads((folder / WAITS).read_text())
    except (OSError, ValueError):
        return None
    holder = Process(**fields["holder"]) if fields["holder"] else None
    state = (holder.state if holder else None) or fields["state"]
    return Wait(**{**fields, "holder": holder, "state": state})
