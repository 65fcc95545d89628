"""How a running trial is asked to end: a file in its folder, which it reads whenever it has reported.

Ray's report returns only once the driver has dealt with what was reported, so that what the driver asks there and then
is on disk when the trial looks.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir.atomic import write_text

REQUEST_FILE = "ask.json"
What = Literal["prune", "stop", "pause"]


@dataclass(frozen=True)
class StopRequest:
    """What a trial is asked, and the reason for people."""

    ask: What
    why: str


class DamagedRequestError(UserError, ValueError):
    """A trial cannot read what it is asked."""


def request_stop(folder: Path, what: What, why: str) -> None:
    """Ask the trial of this folder to leave its checkpoint and end; it does so at its next report, or during one."""
    write_text(folder / REQUEST_FILE, json.dumps(asdict(StopRequest(what, why))))


def read_stop_request(folder: Path) -> StopRequest | None:
    """What the trial is asked, if anything.

    Raises:
        DamagedRequestError: that cannot be read; the trial fails, and is asked anew when it is tried again.
    """
    path = folder / REQUEST_FILE
    try:
        return StopRequest(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DamagedRequestError(f"{path} is damaged ({error}); it is written anew before the next attempt") from error


def clear_stop_request(folder: Path) -> None:
    """Take back whatever was asked."""
    (folder / REQUEST_FILE).unlink(missing_ok=True)
