"""The error of a refused request, with a message for people."""

from collections.abc import Sequence
from typing import Any

import httpx2

from ssl_sweep.errors import UserError

Json = dict[str, Any]


class ServiceError(UserError, ValueError):
    """A refused request, with its status and the problems; status 0: no service answered."""

    def __init__(self, message: str, status: int = 0, problems: Sequence[Json] = ()) -> None:
        super().__init__(message)
        self.status, self.problems = status, problems


def error_of(answer: httpx2.Response, file: str) -> ServiceError:
    """The error in a response; `file` is the spec's name in messages."""
    try:
        body = answer.json()
        problems = body.get("problems") or []
        message = "\n".join(_line(each, file) for each in problems) or str(body["message"])
    except (ValueError, KeyError, AttributeError):
        message, problems = f"the service answers {answer.status_code}: {answer.text[:500]}", []
    if answer.status_code == 401:
        message += "; give it in SSL_SWEEP_TOKEN, or as a profile's `token` in ~/.config/ssl_sweep/config.toml"
    return ServiceError(message, answer.status_code, problems)


def _line(problem: Json, file: str) -> str:
    place = f"{file}:{problem['line']}" if problem.get("line") else file
    value = "" if problem.get("value") is None else repr(problem["value"])
    text = "; ".join(part for part in (problem["message"], problem.get("remedy")) if part)
    return ": ".join(part for part in (place, problem["place"], value, text) if part)
