"""Ray Jobs through the cluster's HTTP API. Every call has a time limit, which Ray's own client lacks.

A job's driver lives in the cluster and outlives the service that submitted it. A job is named by its submission and
attempt, and Ray accepts a name only once: a service that submits again after a crash finds the job there.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any

import httpx2

from ssl_sweep.service.queue import Capacity

WAIT_S = 20.0
MAX_NODES = 10_000
GOING_ON = ("PENDING", "RUNNING")
RAYS_OWN = re.compile(r"Job entrypoint command failed|Running entrypoint for job|.* job_manager\.py:\d+ -- ")


class RayUnavailableError(Exception):
    """The cluster does not answer, or answers with an error."""


@dataclass(frozen=True)
class Job:
    """What Ray knows of a job. `status`: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""

    status: str
    message: str  # for people only; decisions go by `exit_code`
    exit_code: int | None  # None while the job runs, or if its driver never started or was lost

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "Job":
        """Read the job details of Ray's HTTP interface."""
        return cls(details["status"], details.get("message") or "", details.get("driver_exit_code"))

    def last_lines(self) -> str:
        """The last lines that the driver printed, without the lines that Ray puts around them."""
        lines = [line for line in self.message.strip().splitlines() if line.strip()]
        return "\n".join([line for line in lines if not RAYS_OWN.match(line)][-5:] or lines[-5:])


class RayJobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """address: the dashboard of the cluster's head, `http://127.0.0.1:8265`."""
        self.address = address
        self._client = httpx2.Client(base_url=address, timeout=WAIT_S, headers=_authorization())

    def submit(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a job, unless one of this name exists. Raises RayUnavailableError."""
        request = {
            "entrypoint": join(command),
            "submission_id": name,
            "runtime_env": {"env_vars": dict(environment)},
            "metadata": {"job_submission_id": name},
        }
        answer = self._ask("POST", "/api/jobs/", json=request)
        if answer.status_code != 200 and "already exists" not in answer.text:
            raise RayUnavailableError(f"Ray does not take the job: {_last_line(answer.text)}")

    def find(self, name: str) -> Job | None:
        """A job by its name. Raises RayUnavailableError."""
        answer = self._ask("GET", f"/api/jobs/{name}")
        if answer.status_code == 404:
            return None
        return Job.of(_json(answer))

    def logs(self, name: str) -> str:
        """The output of a job's driver; empty for an unknown job. Raises RayUnavailableError."""
        answer = self._ask("GET", f"/api/jobs/{name}/logs")
        return "" if answer.status_code == 404 else str(_json(answer).get("logs") or "")

    def capacity(self) -> Capacity:
        """CPUs and GPUs of all live nodes. Raises RayUnavailableError."""
        answer = _json(self._ask("GET", "/api/v0/nodes", params={"limit": MAX_NODES, "detail": "true"}))
        nodes = [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
        totals = [node.get("resources_total") or {} for node in nodes]
        return Capacity(*(sum(float(each.get(kind, 0)) for each in totals) for kind in ("CPU", "GPU")))

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, **content: Any) -> httpx2.Response:
        try:
            answer = self._client.request(method, path, **content)
        except httpx2.TransportError as error:
            raise RayUnavailableError(f"no Ray cluster answers at {self.address} ({error})") from error
        if answer.status_code in (401, 403):
            remedy = "give the service the cluster's RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
            raise RayUnavailableError(f"the Ray cluster at {self.address} does not let the service in; {remedy}")
        return answer


def _authorization() -> dict[str, str]:
    """The cluster's token from where Ray's own tools look for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    path = Path(os.path.expanduser(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"))
    return {"Authorization": f"Bearer {path.read_text().strip()}"} if path.is_file() else {}


def _json(answer: httpx2.Response) -> dict[str, Any]:
    try:
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
    except (httpx2.HTTPStatusError, ValueError) as error:
        raise RayUnavailableError(f"Ray answers {answer.status_code}: {_last_line(answer.text)}") from error
    return content


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else "nothing"
