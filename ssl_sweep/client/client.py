"""The service's client: `Client("https://sweeps.lab").submit(Path("alphas.yaml").read_text())`.

Address and token come from a profile in `~/.config/ssl_sweep/config.toml`; SSL_SWEEP_TOKEN overrides the token:

    [profiles.lab]
    server = "https://sweeps.lab"
    token = "sslsweep_..."
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import httpx2

from ssl_sweep.client.errors import ServiceError, error_of
from ssl_sweep.client.profiles import profile
from ssl_sweep.trialdir.retry import retry

__all__ = ["Client", "ServiceError"]

WAIT_S = 60.0  # for a response: checking a spec or making a table takes seconds
QUIET_S = 60.0  # without a heartbeat until a stream is reopened; the service sends one every 15 s
TRIES = 4
PAGE = 500
POLL_S = 1.0
PASSING = (429, 502, 503, 504)  # statuses of a busy or starting service, which are worth another try

Json = dict[str, Any]


class Client:
    """A client of the service, with the verbs of the command line. Every call raises ServiceError if it fails."""

    def __init__(self, server: str, token: str | None = None, *, http: httpx2.Client | None = None) -> None:
        """server: an address, or a profile's name; http: another HTTP client, for tests."""
        address, known = profile(server)
        self.server = address
        self._http = http or httpx2.Client(base_url=address, timeout=WAIT_S)
        if token := token or os.environ.get("SSL_SWEEP_TOKEN") or known:
            self._http.headers["Authorization"] = f"Bearer {token}"

    def plan(self, spec: str, overrides: Sequence[str] = (), *, file: str = "spec") -> Json:
        """The plan of a sweep from its spec's text; `file` is the spec's name in messages."""
        return self._json("POST", "/plan", json={"spec": spec, "overrides": list(overrides)}, file=file)

    def submit(
        self,
        spec: str,
        overrides: Sequence[str] = (),
        *,
        priority: int = 0,
        key: str | None = None,
        file: str = "spec",
    ) -> Json:
        """Queue a sweep from its spec's text; a second call with the same key makes no second sweep."""
        content = {"spec": spec, "overrides": list(overrides), "priority": priority}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._json("POST", "/sweeps", json=content, headers=headers, file=file)

    def sweeps(self, *, states: Sequence[str] = (), owner: str | None = None) -> list[Json]:
        """All sweeps, newest first."""
        sweeps: list[Json] = []
        query: Json = {"state": list(states), "limit": PAGE} | ({"owner": owner} if owner else {})
        while True:
            page = self._json("GET", "/sweeps", params=query)
            sweeps += page["sweeps"]
            if page["next"] is None:
                return sweeps
            query["before"] = page["next"]

    def show(self, name: str) -> Json:
        """One sweep: its state, why it waits, and its counts."""
        return self._json("GET", f"/sweeps/{_quoted(name)}")

    def trials(self, name: str, *, state: str | None = None) -> list[Json]:
        """A sweep's trials."""
        trials: list[Json] = []
        while True:
            query = {"offset": len(trials), "limit": PAGE} | ({"state": state} if state else {})
            page = self._json("GET", f"/sweeps/{_quoted(name)}/trials", params=query)
            trials += page["trials"]
            if not page["trials"] or len(trials) >= page["total"]:
                return trials

    def status(self, name: str) -> Json:
        """Counts and trials as in `ssl-sweep status --json`, and the sweep's state in the service."""
        sweep = self.show(name)
        request = {"ask": sweep["asked"], "why": "through the service"} if sweep["asked"] else None
        return {**sweep, **sweep["counts"], "driver": None, "asked": request, "trials": self.trials(name)}

    def logs(self, name: str, *, trial: str | None = None, lines: int = 20) -> str:
        """Why trials failed, or what running ones log."""
        query = {"lines": lines} | ({"trial": trial} if trial else {})
        return self._send("GET", f"/sweeps/{_quoted(name)}/logs", params=query).text

    def followed(self, name: str, *, trial: str | None = None, lines: int = 20) -> Iterator[str]:
        """The last lines of a trial's log, then new ones until its attempt ends."""
        query: Json = {"offset": 0} | ({"trial": trial} if trial else {})
        while True:
            part = self._json("GET", f"/sweeps/{_quoted(name)}/logs/follow", params=query)
            text = part["text"] if query["offset"] else "".join(part["text"].splitlines(keepends=True)[-lines:])
            if text:
                yield text
            if part["ended"]:
                return
            query |= {"offset": part["offset"], "trial": part["trial"]}
            time.sleep(POLL_S)

    def events(self, name: str, after: int = 0) -> Iterator[Json]:
        """The events of a sweep until it ends; none is lost when the connection is."""
        misses = 0
        while True:
            try:
                for event in self._stream(name, after):
                    misses = 0
                    if event["kind"] == "end":
                        return
                    after = event["number"]
                    yield event
            except httpx2.TransportError as error:
                misses += 1
                if misses > TRIES:
                    raise self._unreachable(error) from error
            except ServiceError as error:
                misses += 1
                if misses > TRIES or error.status not in PASSING:
                    raise
            time.sleep(min(2**misses, 30))

    def table(self, names: Sequence[str], form: str = "md", **options: Any) -> str:
        """The ablation table of sweeps, with the options of `ssl-sweep table`."""
        given = {key: value for key, value in options.items() if value is not None}
        return self._send("GET", "/table", params={"sweep": list(names), "format": form, **given}).text

    def report(self, name: str) -> str:
        """The sweep's page as HTML."""
        return self._send("GET", f"/sweeps/{_quoted(name)}/report").text

    def stop(self, name: str, trials: Sequence[str] = ()) -> Json:
        """Stop a sweep, or trials of it."""
        return self._json("POST", f"/sweeps/{_quoted(name)}/stop", json={"trials": list(trials)})

    def pause(self, name: str) -> Json:
        """Pause a sweep."""
        return self._json("POST", f"/sweeps/{_quoted(name)}/pause")

    def resume(
        self, name: str, *, failed: bool = False, trials: Sequence[str] = (), data_changed: str | None = None
    ) -> Json:
        """Queue an ended sweep again; `data_changed`, keep or restart, lets it go on with other data."""
        content = {"failed": failed, "trials": list(trials), **_given(data_changed=data_changed)}
        return self._json("POST", f"/sweeps/{_quoted(name)}/resume", json=content)

    def extend(self, name: str, trials: str, overrides: Sequence[str] = (), *, data_changed: str | None = None) -> Json:
        """Run more choices: `+20`, or `40` in all; `data_changed` as above."""
        content = {"trials": trials, "overrides": list(overrides), **_given(data_changed=data_changed)}
        return self._json("POST", f"/sweeps/{_quoted(name)}/extend", json=content)

    def priority(self, name: str, priority: int) -> Json:
        """Change a sweep's priority."""
        return self._json("PUT", f"/sweeps/{_quoted(name)}/priority", json={"priority": priority})

    def delete(self, name: str) -> None:
        """Delete a sweep from the service; its results stay."""
        self._send("DELETE", f"/sweeps/{_quoted(name)}")

    def cluster(self) -> Json:
        """The cluster's resources, and the part that running sweeps hold."""
        return self._json("GET", "/cluster")

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _json(self, method: str, path: str, **content: Any) -> Json:
        answer = self._send(method, path, **content)
        try:
            read: Json = answer.json()
        except ValueError:
            raise self._not_a_service(answer) from None
        return read

    def _send(self, method: str, path: str, *, file: str = "spec", **content: Any) -> httpx2.Response:
        try:
            answer = retry(
                lambda failures: self._http.request(method, f"/api/v1{path}", **content),
                is_transient=lambda error: _may_repeat(method, "headers" in content, error),
                first_delay_s=0.5,
                max_calls=TRIES,
            )
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        self._check(answer, file)
        return answer

    def _stream(self, name: str, after: int) -> Iterator[Json]:
        path, wait = f"/api/v1/sweeps/{_quoted(name)}/events", httpx2.Timeout(WAIT_S, read=QUIET_S)
        with self._http.stream("GET", path, params={"after": after}, timeout=wait) as answer:
            if not _content_type(answer).startswith("text/event-stream"):
                answer.read()
                self._check(answer, "spec")
                raise self._not_a_service(answer)
            kind = ""
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                kind = value if field == "event" else kind
                if field == "data":
                    yield {"kind": kind, **json.loads(value)}

    def _check(self, answer: httpx2.Response, file: str) -> None:
        if answer.is_error:
            raise error_of(answer, file)
        if not answer.is_success:
            where = answer.headers.get("location", "elsewhere")
            raise ServiceError(
                f"{self.server} redirects to {where}; give the service's own address", answer.status_code
            )

    def _not_a_service(self, answer: httpx2.Response) -> ServiceError:
        message = f"what answers at {self.server} is no sweep service (it sends {_content_type(answer) or 'nothing'})"
        return ServiceError(f"{message}; check the address, and whether a proxy asks for a login", answer.status_code)

    def _unreachable(self, error: Exception) -> ServiceError:
        remedy = "check the address, and that it is up"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "set SSL_CERT_FILE to the certificate of the authority that signed the service's"
        return ServiceError(f"no service answers at {self.server} ({error}); {remedy}")


def _content_type(answer: httpx2.Response) -> str:
    return str(answer.headers.get("content-type", ""))


def _may_repeat(method: str, has_key: bool, error: Exception) -> bool:
    """Whether a lost request may be sent again: a submission by its key, any other if the server did not receive it."""
    if not isinstance(error, httpx2.TransportError):
        return False
    if has_key or isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return True
    # the server still works on a slow answer: a second request makes it slower
    return method == "GET" and not isinstance(error, httpx2.ReadTimeout)


def _given(**values: Any) -> Json:
    """The values that are given: a service of an earlier version refuses keys that it does not know."""
    return {key: value for key, value in values.items() if value is not None}


def _quoted(name: str) -> str:
    return quote(name, safe="")
