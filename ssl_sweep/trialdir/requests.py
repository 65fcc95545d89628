"""Requests to a running trial to end: a file in its folder, which it reads after every report.

Ray's report returns after the driver has handled it, so that a request caused by a report is on disk when the trial
looks.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir.atomic import write_text

REQUEST_FILE = "ask.json"
Action = Literal["prune", "stop", "pause"]


@dataclass(frozen=True)
class StopRequest:
    """How a trial is asked to end, and the reason for people. The fields are the file's keys."""

    ask: Action
    why: str


class DamagedRequestError(UserError, ValueError):
    """A trial cannot read the request to end it."""


def request_stop(folder: Path, what: Action, why: str) -> None:
    """Ask the trial of this folder to keep its checkpoint and end, at its next report or during one."""
    write_text(folder / REQUEST_FILE, json.dumps(asdict(StopRequest(what, why))))


def read_stop_request(folder: Path) -> StopRequest | None:
    """The request to the trial, if there is one.

    Raises:
        DamagedRequestError: the file cannot be read; the trial fails, and its next attempt gets a new request.
    """
    path = folder / REQUEST_FILE
    try:
        return StopRequest(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DamagedRequestError(f"{path} is damaged ({error}); the next attempt gets a new one") from error


def clear_stop_request(folder: Path) -> None:
    """Withdraw a request."""
    (folder / REQUEST_FILE).unlink(missing_ok=True)
