"""Who may do what, and what is done against those who try more: refused, written down, and nothing changed."""

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from servers import eventually
from services import API, SPEC, Service, body, submit
from starlette.testclient import TestClient

from ssl_sweep.service import middleware
from ssl_sweep.service.access import Role
from ssl_sweep.service.middleware import MAX_BODY

# every operation: who may use it, and what to send; one without a line here fails the test
LOOK, SUBMIT, OWN = "everybody with a token", "submitters", "its owner and admins"
NAMED = f"{API}/sweeps/{{name}}"
OPERATIONS: dict[tuple[str, str], tuple[str, Any]] = {
    ("get", f"{API}/sweeps"): (LOOK, None),
    ("get", f"{API}/cluster"): (LOOK, None),
    ("get", f"{API}/table"): (LOOK, None),
    ("get", NAMED): (LOOK, None),
    ("get", f"{NAMED}/spec"): (LOOK, None),
    ("get", f"{NAMED}/trials"): (LOOK, None),
    ("get", f"{NAMED}/events"): (LOOK, None),
    ("get", f"{NAMED}/logs"): (LOOK, None),
    ("get", f"{NAMED}/logs/follow"): (LOOK, None),
    ("get", f"{NAMED}/report"): (LOOK, None),
    ("post", f"{API}/plan"): (SUBMIT, body(name="new")),
    ("post", f"{API}/sweeps"): (SUBMIT, body(name="new")),
    ("post", f"{NAMED}/pause"): (OWN, None),
    ("post", f"{NAMED}/resume"): (OWN, {}),
    ("put", f"{NAMED}/priority"): (OWN, {"priority": -1}),
    ("post", f"{NAMED}/stop"): (OWN, {}),
    ("post", f"{NAMED}/extend"): (OWN, {"trials": "+1"}),
    ("delete", NAMED): (OWN, None),
}
MAY = {
    LOOK: {"viewer", "submitter", "owner", "admin"},
    SUBMIT: {"submitter", "owner", "admin"},
    OWN: {"owner", "admin"},
}
ROLES: dict[str, Role] = {"viewer": "viewer", "submitter": "submitter", "owner": "submitter", "admin": "admin"}


@pytest.mark.parametrize("who", [*ROLES, "nobody", "guesser"])
def test_every_endpoint_by_role_and_owner(service: Service, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware.RateLimiter, "wait", lambda *_: 0.0)
    document = service.client(None).get("/openapi.json").json()
    declared = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert declared == set(OPERATIONS)
    owner = service.client("owner")
    assert owner.post(f"{API}/sweeps", json=body()).status_code == 201
    service.store.change(service.now(), state="PAUSED")
    client = owner if who == "owner" else service.client(who, ROLES[who]) if who in ROLES else service.client(None)
    if who == "guesser":
        client.headers["Authorization"] = "Bearer sslsweep_guess"
    for (method, path), (allowed, content) in OPERATIONS.items():
        before = service.store.find()
        given = {"json": content} if content is not None else {}
        params = {"sweep": "tiny"} if path.endswith("/table") else {}
        where = path.format(name="tiny")
        status = client.request(method, where, params=params, **given).status_code
        if who in MAY[allowed]:
            assert status not in (401, 403), (method, path)
            continue
        assert status == (403 if who in ROLES else 401), (method, path)
        assert service.store.find() == before
        noted = service.store.audit_log(1)[0]
        who_was_it = who if who in ROLES else "-"
        assert (noted["user"], noted["action"], noted["status"]) == (who_was_it, f"{method.upper()} {where}", status)
    assert bool(service.store.get("tiny")) == (who not in MAY[OWN])


def test_only_an_admin_gives_a_high_priority(ann: TestClient, service: Service) -> None:
    assert ann.post(f"{API}/sweeps", json={**body(), "priority": 1}).status_code == 403
    ann.post(f"{API}/sweeps", json=body())
    assert ann.put(f"{API}/sweeps/tiny/priority", json={"priority": 1}).status_code == 403
    root = service.client("root", "admin")
    assert root.put(f"{API}/sweeps/tiny/priority", json={"priority": 5}).json()["priority"] == 5


# tokens, neighbours and tricks


def test_token_guessing_is_slow_and_written_down(service: Service) -> None:
    guesser = service.client(None, address="10.0.0.66")
    statuses = [
        guesser.get(f"{API}/sweeps", headers={"Authorization": f"Bearer guess{n}"}).status_code for n in range(30)
    ]
    assert statuses.count(401) <= 11
    assert statuses[-1] == 429
    good = service.client("ann", address="10.0.0.66")  # behind the same proxy
    assert good.get(f"{API}/sweeps").status_code == 200
    assert guesser.get(f"{API}/sweeps", headers={"Authorization": "Bearer guess"}).status_code == 429
    assert service.client("bob", address="10.0.0.67").get(f"{API}/sweeps").status_code == 200
    noted = [each for each in service.store.audit_log() if each["address"] == "10.0.0.66"]
    assert {each["status"] for each in noted} == {401, 429}
    assert "guess" not in json.dumps(noted)


def test_a_user_who_asks_too_often_is_slowed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "PER_SECOND", 0.001)
    monkeypatch.setattr(middleware, "BURST", 3)
    client, other = service.client("ann"), service.client("bob")
    assert [client.get(f"{API}/sweeps").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert int(client.get(f"{API}/sweeps").headers["Retry-After"]) > 100
    assert other.get(f"{API}/sweeps").status_code == 200


@pytest.mark.parametrize(
    ("headers", "address", "host", "status"),
    [
        ({}, "127.0.0.1", "127.0.0.1:8300", 200),
        ({}, "127.0.0.1", "localhost:8300", 200),
        ({}, "127.0.0.1", "[::1]:8300", 200),
        ({}, "10.0.0.1", "127.0.0.1:8300", 401),
        ({}, "127.0.0.1", "rebound.example:8300", 401),
        ({}, "127.0.0.1", "127.0.0.1.example", 401),
        ({"X-Forwarded-For": "127.0.0.1"}, "127.0.0.1", "127.0.0.1:8300", 401),
        ({"Forwarded": "for=127.0.0.1"}, "127.0.0.1", "127.0.0.1:8300", 401),
        ({"Via": "1.1 proxy"}, "127.0.0.1", "127.0.0.1:8300", 401),
        ({"Origin": "http://evil.example"}, "127.0.0.1", "127.0.0.1:8300", 403),
        ({"Origin": "null"}, "127.0.0.1", "127.0.0.1:8300", 403),
        ({"Authorization": "Bearer x"}, "127.0.0.1", "127.0.0.1:8300", 401),
        ({"Authorization": "Basic eDp5"}, "127.0.0.1", "127.0.0.1:8300", 401),
        ({"Authorization": ""}, "127.0.0.1", "127.0.0.1:8300", 401),
    ],
)
def test_without_a_token_only_this_machine_is_let_in(
    tmp_path: Path, headers: dict[str, str], address: str, host: str, status: int
) -> None:
    service = Service(tmp_path, trust_local=True)
    client = service.client(None, address=address)
    assert client.get(f"{API}/sweeps", headers={**headers, "Host": host}).status_code == status


def test_with_the_first_token_loopback_is_closed_too(tmp_path: Path) -> None:
    service = Service(tmp_path, trust_local=True)
    assert service.client(None, address="127.0.0.1").get(f"{API}/sweeps").status_code == 200
    assert service.client("ann", address="127.0.0.1").get(f"{API}/sweeps").status_code == 200
    assert service.client(None, address="127.0.0.1").get(f"{API}/sweeps").status_code == 401


def test_a_service_bound_elsewhere_wants_tokens_of_its_neighbours(service: Service) -> None:
    assert service.client(None, address="127.0.0.1").get(f"{API}/sweeps").status_code == 401


def test_two_authorizations_are_none(ann: TestClient) -> None:
    mine = ann.headers["Authorization"]
    headers = [("Authorization", mine), ("Authorization", "Bearer x")]
    assert ann.get(f"{API}/sweeps", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fetc", "a%00b", "a/../b", "-x", ".service", "x" * 101, "%0d%0aSet-Cookie:a"]
)
def test_names_lead_nowhere_else(ann: TestClient, name: str) -> None:
    for path in ("", "/trials", "/logs", "/report"):
        assert ann.get(f"{API}/sweeps/{name}{path}").status_code in (404, 405, 422)
    assert ann.get(f"{API}/table", params={"sweep": name}).status_code in (404, 409, 422)


@pytest.mark.parametrize("trial", ["../../x", "..", "zz", "%2e%2e%2fx"])
def test_trials_names_lead_nowhere_else(ann: TestClient, service: Service, trial: str) -> None:
    ann.post(f"{API}/sweeps", json=body())
    service.begun()
    assert ann.get(f"{API}/sweeps/tiny/logs", params={"trial": trial}).status_code == 422
    assert ann.post(f"{API}/sweeps/tiny/stop", json={"trials": [trial]}).status_code == 422


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"spec":' * 5_000,
        b'{"spec": "' + b"[" * 50_000 + b'"}',
        b'{"spec": "a: &a [*a]"}',
        b'{"spec": 5}',
        b'{"spec": "name: x", "owner": "root"}',
        b'{"spec": "\\ud800"}',
        json.dumps({"spec": yaml.safe_dump(SPEC) + 'description: "\\ud800"'}).encode(),
        json.dumps({"spec": yaml.safe_dump(SPEC) + 'description: "\\0"'}).encode(),
        json.dumps({"spec": yaml.safe_dump(SPEC) + 'table: {baseline: "\\ud800"}'}).encode(),
        b"\xff\xfe",
        json.dumps({"spec": "x" * 100_001}).encode(),
        json.dumps({"spec": "x: !!python/object/apply:os.system [touch /tmp/x]"}).encode(),
        json.dumps({"spec": "name: x", "overrides": ["a=b"] * 101}).encode(),
    ],
)
def test_bodies_that_are_no_specs_are_refused_soon(ann: TestClient, service: Service, content: bytes) -> None:
    began = time.monotonic()
    answer = ann.post(f"{API}/sweeps", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["message"]
    assert time.monotonic() - began < 10
    assert service.store.find() == []


def test_bodies_are_bounded_whatever_they_say(ann: TestClient) -> None:
    assert ann.post(f"{API}/sweeps", content=b"x" * (MAX_BODY + 1)).status_code == 413
    chunks = (b"x" * 100_000 for _ in range(10))
    sent = ann.post(f"{API}/sweeps", content=chunks, headers={"Content-Type": "application/json"})
    assert sent.status_code == 413
    for length in ("-1", "1e9", "9" * 400):
        assert ann.post(f"{API}/plan", content=b"{}", headers={"Content-Length": length}).status_code == 413


def test_forms_and_plain_texts_change_nothing(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        sent = ann.post(f"{API}/sweeps/tiny/stop", content=b"{}", headers={"Content-Type": kind})
        assert sent.status_code == 422
    read = service.now()
    assert read.state == "QUEUED"


def test_script_in_names_and_texts_stays_text(ann: TestClient) -> None:
    assert ann.post(f"{API}/sweeps", json=body(name="<script>")).status_code == 422
    made = ann.post(f"{API}/sweeps", json=body(description="<script>alert(1)</script>"))
    assert made.headers["content-type"] == "application/json"
    for answer in (made, ann.get(f"{API}/sweeps"), ann.get("/<script>")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] in ("no-store", "private, no-cache")
        assert answer.headers["x-frame-options"] == "DENY"


def test_what_was_done_is_written_down_with_who_did_it(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    ann.get(f"{API}/sweeps")
    service.client("vic", "viewer").delete(f"{API}/sweeps/tiny")
    noted = [(each["user"], each["action"], each["status"]) for each in service.store.audit_log()]
    assert noted == [("vic", f"DELETE {API}/sweeps/tiny", 403), ("ann", f"POST {API}/sweeps", 201)]


def test_health_needs_no_token_and_says_nothing(service: Service) -> None:
    assert service.client(None).get("/healthz").json() == {"status": "ok"}
    assert service.client(None).get("/docs").status_code == 401


# what is sent to break it

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)
SPEC_TEXT = yaml.safe_dump(SPEC)


@pytest.mark.parametrize(
    ("spec", "overrides"),
    [
        (LAUGHS, []),
        (SPEC_TEXT + "description: *nowhere", []),
        (SPEC_TEXT + LAUGHS, []),
        (SPEC_TEXT, ["views.overlay_alpha=" + "[" * 2_400 + "]" * 2_400]),
        (SPEC_TEXT, ["a." * 2_400 + "b=1"]),
        (SPEC_TEXT, ["search.space={" + ", ".join(f"k{n}: [0]" for n in range(500)) + "}"]),
        (SPEC_TEXT + "views: " + "{a: " * 5_000 + "1" + "}" * 5_000, []),
        (SPEC_TEXT + "".join(f"\nk{n}: 1" for n in range(9_000)), []),
        (SPEC_TEXT + "description: !!python/name:os.system", []),
        (SPEC_TEXT.replace("tiny", "../../etc/cron.d/x"), []),
        (SPEC_TEXT.replace("digits", "imagefolder:../../../etc"), []),
        (SPEC_TEXT.replace("digits", "imagefolder:/proc/self"), []),
        (SPEC_TEXT, ["tracking.uri=file:///etc"]),
        (SPEC_TEXT, ["search.space.views.overlay_alpha=" + repr([n / 50_000 for n in range(600)])] * 100),
    ],
)
def test_specs_that_are_bombs_or_lead_elsewhere_are_refused_soon(
    ann: TestClient, service: Service, spec: str, overrides: list[str]
) -> None:
    began = time.process_time()
    answer = ann.post(f"{API}/sweeps", json={"spec": spec, "overrides": overrides})
    assert answer.status_code in (413, 422)
    assert answer.json()["message"]
    assert len(answer.content) < 200_000
    assert time.process_time() - began < 8
    assert service.store.find() == []
    noted = service.store.audit_log(1)[0]
    assert (noted["user"], noted["status"]) == ("ann", answer.status_code)


def raw(url: str, request: bytes, timeout: float = 30) -> tuple[int, bytes]:
    """What a server answers to these bytes; status 0 where it only closes."""
    where = urlsplit(url)
    answer = b""
    with (
        socket.create_connection((where.hostname, where.port), timeout=timeout) as connection,
        suppress(TimeoutError, ConnectionError),  # it waits for more, or has had enough
    ):
        connection.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        while part := connection.recv(65536):
            answer += part
    return (int(answer.split(b" ", 2)[1]) if answer else 0), answer


STOP = b"POST /api/v1/sweeps/tiny/stop HTTP/1.1\r\nHost: sweeps.lab\r\nContent-Type: application/json\r\n"
TRICKS = {
    "no token": STOP + b"Content-Length: 2\r\n\r\n{}",
    "forwarded as loopback": STOP + b"X-Forwarded-For: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}",
    "forwarded as another user": STOP + b"X-Forwarded-User: root\r\nX-Remote-User: root\r\nContent-Length: 2\r\n\r\n{}",
    "method override": b"GET /api/v1/sweeps/tiny HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
    "two lengths": STOP + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "length and chunks": STOP + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks in disguise": STOP + b"Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "an unknown encoding": STOP + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "endless chunks": STOP + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n",
    "a chunk's size": STOP + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "two hosts": b"GET /api/v1/sweeps HTTP/1.1\r\nHost: localhost\r\nHost: sweeps.lab\r\n\r\n",
    "no host": b"GET /api/v1/sweeps HTTP/1.1\r\n\r\n",
    "another scheme": b"GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "up the tree": b"GET /api/v1/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a zero byte": b"GET /api/v1/sweeps\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "folded header": b"GET /api/v1/sweeps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n x\r\n\r\n",
    "a long header": b"GET /api/v1/sweeps HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "a long path": b"GET /api/v1/sweeps/" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": b"GET /api/v1/sweeps HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_with_headers_change_nothing(ann: TestClient, service: Service, url: str, trick: str) -> None:
    submit(service.store, service.settings.storage.root)
    before = service.now()
    status, answer = raw(url, TRICKS[trick], timeout=3)  # some are never whole
    assert status == 0 or 400 <= status < 500, answer[:200]
    assert service.now() == before
    health = raw(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert health[0] == 200  # it goes on


def test_tricks_with_a_token_do_what_one_request_does(ann: TestClient, service: Service, url: str) -> None:
    submit(service.store, service.settings.storage.root)
    token = f"Authorization: {ann.headers['Authorization']}\r\n".encode()
    for extra in (token, b"Authorization: Bearer x\r\n", b"authorization: \r\n"):  # a second one
        status, _ = raw(url, STOP + token + extra + b"Content-Length: 2\r\n\r\n{}")
        assert status == 401
    assert service.now().state == "QUEUED"
    assert eventually(lambda: len(service.store.audit_log()) == 3, 10)  # each is noted once it is answered
    noted = {(each["action"], each["status"]) for each in service.store.audit_log()}
    assert noted == {("POST /api/v1/sweeps/tiny/stop", 401)}
    hidden = b"DELETE /api/v1/sweeps/tiny HTTP/1.1\r\nHost: x\r\n\r\n"
    both = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(hidden))
    raw(url, b"GET /api/v1/cluster HTTP/1.1\r\nHost: x\r\n" + token + both + hidden, timeout=3)
    assert service.store.get("tiny") is not None  # what is hidden in a body has no token of its own
