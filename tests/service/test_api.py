"""The endpoints: what they answer, to whom, and what they refuse; with no Ray behind them."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from services import API, SPEC, Service, body
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from ssl_sweep.control import Ask
from ssl_sweep.ledger import open_ledger
from ssl_sweep.orders import give_order, read_orders
from ssl_sweep.service import guard
from ssl_sweep.service.guard import MAX_BODY
from ssl_sweep.service.jobs import RayAway
from ssl_sweep.spec import from_dump


def test_a_sweep_is_planned_submitted_listed_and_shown(ann: TestClient, service: Service) -> None:
    planned = ann.post(f"{API}/plan", json=body()).json()
    assert (planned["name"], planned["trials"], planned["concurrent"]) == ("tiny", 4, 4)
    assert service.store.find() == []
    made = ann.post(f"{API}/sweeps", json={**body(), "overrides": ["search.seeds=1"]})
    assert made.status_code == 201
    assert (made.json()["state"], made.json()["owner"], made.json()["counts"]["total"]) == ("QUEUED", "ann", 2)
    assert ann.get(f"{API}/sweeps/tiny").json() == made.json()
    assert ann.get(f"{API}/sweeps").json() == {"sweeps": [made.json()], "next": None}
    assert ann.get(f"{API}/sweeps/tiny/spec").json()["search"]["seeds"] == [0]
    assert ann.get(f"{API}/cluster").json()["waiting"] == 1


def test_a_retried_submission_makes_one_sweep(ann: TestClient, service: Service) -> None:
    key = {"Idempotency-Key": "abc"}
    first = ann.post(f"{API}/sweeps", json=body(), headers=key)
    second = ann.post(f"{API}/sweeps", json=body(), headers=key)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    service.begun()  # it may well run by the time of the retry
    assert ann.post(f"{API}/sweeps", json=body(), headers=key).status_code == 200
    other = ann.post(f"{API}/sweeps", json=body(name="other"), headers=key)
    assert other.status_code == 409
    assert "own key" in other.json()["message"]
    assert ann.post(f"{API}/sweeps", json=body()).status_code == 409
    assert len(service.store.find()) == 1


def test_a_sweep_that_has_results_is_not_gone_on_with_by_somebody_else(ann: TestClient, service: Service) -> None:
    open_ledger(service.settings.storage.ledger_url, from_dump(SPEC))
    refused = ann.post(f"{API}/sweeps", json=body())
    assert refused.status_code == 409
    assert "there are results of a sweep named 'tiny'" in refused.json()["message"]


def test_all_that_is_wrong_with_a_spec_is_told(ann: TestClient) -> None:
    wrong = ann.post(f"{API}/sweeps", json=body(views={"overlay_alpha": 0.7}, pretrain={"epoch": 2}))
    assert wrong.status_code == 422
    problems = {each["place"]: each for each in wrong.json()["problems"]}
    assert problems["pretrain.epoch"]["remedy"] == "did you mean 'epochs'?"
    assert problems["pretrain.epoch"]["line"] == 10
    assert problems["views.overlay_alpha"]["value"] == 0.7


def test_pages_of_a_list_hold_everything_once(ann: TestClient, service: Service) -> None:
    for number in range(5):
        assert ann.post(f"{API}/sweeps", json=body(name=f"s{number}")).status_code == 201
    seen, before = [], None
    while True:
        page = ann.get(f"{API}/sweeps", params={"limit": 2, **({"before": before} if before else {})}).json()
        seen += [each["name"] for each in page["sweeps"]]
        before = page["next"]
        if before is None:
            break
    assert seen == ["s4", "s3", "s2", "s1", "s0"]
    assert ann.get(f"{API}/sweeps", params={"owner": "bob"}).json()["sweeps"] == []
    assert len(ann.get(f"{API}/sweeps", params={"state": "QUEUED"}).json()["sweeps"]) == 5


def test_trials_logs_and_events_of_a_sweep_that_runs(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    assert ann.get(f"{API}/sweeps/tiny/trials").json() == {"trials": [], "total": 0}
    assert ann.get(f"{API}/sweeps/tiny/logs").text == "the driver's words\n"
    ledger = service.begun()
    first, second = ledger.ask().trials
    ledger.update(replace(first, state="COMPLETE", attempts=1, results={"knn/top1_val": 50.0}))
    ledger.update(replace(second, state="RUNNING", attempts=1))
    folder = service.settings.storage.trial("tiny", second.trial_id)
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("one\ntwo\n")
    page = ann.get(f"{API}/sweeps/tiny/trials", params={"limit": 1, "offset": 1}).json()
    assert (page["total"], [each["state"] for each in page["trials"]]) == (2, ["RUNNING"])
    assert "folder" not in page["trials"][0]  # the server's own business
    assert ann.get(f"{API}/sweeps/tiny/trials", params={"state": "COMPLETE"}).json()["total"] == 1
    assert "two" in ann.get(f"{API}/sweeps/tiny/logs").text
    assert ann.get(f"{API}/sweeps/tiny/logs", params={"trial": second.trial_id[:8], "lines": 1}).text == "two\n"
    part = ann.get(f"{API}/sweeps/tiny/logs/follow").json()
    assert (part["text"], part["offset"], part["ended"]) == ("one\ntwo\n", 8, False)
    with (folder / "log.txt").open("a") as file:
        file.write("three\n")
    assert ann.get(f"{API}/sweeps/tiny/logs/follow", params={"offset": 8}).json()["text"] == "three\n"
    read = service.now()
    service.store.change(read, state="COMPLETE")
    told = read_events(ann.get(f"{API}/sweeps/tiny/events").text)
    assert [each.get("state") for each in told] == ["QUEUED", "RUNNING", "COMPLETE", "COMPLETE"]
    rest = ann.get(f"{API}/sweeps/tiny/events", headers={"Last-Event-ID": str(told[0]["number"])})
    assert read_events(rest.text) == told[1:]


def read_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_events_are_streamed_as_they_come(ann: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    ann.post(f"{API}/sweeps", json=body())

    def stopped() -> None:
        time.sleep(1)
        service.client("root", "admin").post(f"{API}/sweeps/tiny/stop", json={})

    thread = threading.Thread(target=stopped)
    thread.start()
    told = read_events(ann.get(f"{API}/sweeps/tiny/events").text)
    thread.join()
    assert [each["state"] for each in told] == ["QUEUED", "STOPPED", "STOPPED"]


def test_orders_to_a_sweep_that_waits_and_to_one_that_runs(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    assert ann.post(f"{API}/sweeps/tiny/pause").json()["state"] == "PAUSED"
    assert ann.post(f"{API}/sweeps/tiny/resume", json={}).json()["state"] == "QUEUED"
    ledger = service.begun()
    trial = ledger.ask().trials[0]
    assert ann.post(f"{API}/sweeps/tiny/stop", json={"trials": [trial.trial_id[:8]]}).status_code == 200
    assert ann.post(f"{API}/sweeps/tiny/stop", json={"trials": ["abcdef01"]}).status_code == 404
    told = ann.post(f"{API}/sweeps/tiny/stop", json={}).json()
    assert (told["state"], told["asked"]) == ("RUNNING", "stop")
    assert ann.post(f"{API}/sweeps/tiny/resume", json={}).status_code == 409
    assert ann.delete(f"{API}/sweeps/tiny").status_code == 409
    read = service.now()
    service.store.change(read, state="STOPPED", asked=None)
    assert ann.post(f"{API}/sweeps/tiny/stop", json={}).status_code == 409
    assert ann.post(f"{API}/sweeps/tiny/resume", json={"failed": True}).json()["state"] == "QUEUED"
    queued = service.now()
    assert queued.command == ("resume", "--failed")
    assert ann.put(f"{API}/sweeps/tiny/priority", json={"priority": -3}).json()["priority"] == -3
    assert ann.delete(f"{API}/sweeps/tiny").status_code == 204
    assert ann.get(f"{API}/sweeps/tiny").status_code == 404


def test_what_a_dead_driver_left_is_marked_where_its_sweep_is_stopped(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    ledger = service.begun(state="QUEUED")  # its driver died, and it waits to be launched again
    trial = ledger.ask().trials[0]
    ledger.update(replace(trial, state="RUNNING", attempts=1))
    assert ann.post(f"{API}/sweeps/tiny/stop", json={}).json()["state"] == "STOPPED"
    assert ann.get(f"{API}/sweeps/tiny/trials").json()["trials"][0]["state"] == "STOPPED"


def test_more_choices_for_a_search_and_none_for_a_grid(ann: TestClient, service: Service) -> None:
    space = {"views.overlay_alpha": {"low": 0.0, "high": 0.2}}
    search = {"space": space, "sampler": "random", "trials": 3, "objective": "maximize knn/top1_val"}
    ann.post(f"{API}/sweeps", json=body(search=search))
    ann.post(f"{API}/sweeps", json=body(name="grid"))
    for name in ("tiny", "grid"):
        service.begun(name, "COMPLETE")
    assert ann.post(f"{API}/sweeps/grid/extend", json={"trials": "+2"}).status_code == 422
    bad = ["root=/etc", "tracking.uri=http://x", "data.source=imagefolder:/etc", "search.trials=1000000000"]
    for override in bad:
        asked = {"trials": "+2", "overrides": [override]}
        assert ann.post(f"{API}/sweeps/tiny/extend", json=asked).status_code == 422, override
    assert ann.post(f"{API}/sweeps/tiny/extend", json={"trials": "+2"}).json()["state"] == "QUEUED"
    queued = service.now()
    assert queued.command == ("extend", "--trials=5")  # in all: run twice it is the same
    assert queued.spec["search"]["trials"] == 5


def test_a_stopped_sweep_is_extended_by_what_its_ledger_has_and_goes_on(ann: TestClient, service: Service) -> None:
    space = {"views.overlay_alpha": {"low": 0.0, "high": 0.2}}
    search = {"space": space, "sampler": "random", "trials": 3, "objective": "maximize knn/top1_val"}
    ann.post(f"{API}/sweeps", json=body(search=search))
    notes = service.begun("tiny", "STOPPED").notes
    give_order(notes, Ask("stop", "enough"))
    assert ann.post(f"{API}/sweeps/tiny/extend", json={"trials": "+2"}).json()["state"] == "QUEUED"
    assert read_orders(notes).sweep is None
    queued = service.now()
    service.store.change(queued, state="FAILED")  # before its driver has taken the extension
    ann.post(f"{API}/sweeps/tiny/extend", json={"trials": "+2"})
    again = service.now()
    assert again.command == ("extend", "--trials=5")


def test_what_mlflow_does_not_have_is_said(ann: TestClient) -> None:
    ann.post(f"{API}/sweeps", json=body())
    for path in ("table?sweep=tiny", "sweeps/tiny/report"):
        answer = ann.get(f"{API}/{path}")
        assert answer.status_code == 409
        assert "MLflow" in answer.json()["message"]


def test_who_waits_for_mlflow_holds_up_no_submission(
    ann: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssl_sweep.report import page

    ann.post(f"{API}/sweeps", json=body())
    back, asked = threading.Event(), threading.Semaphore(0)

    def made(*_: Any) -> str:
        asked.release()
        back.wait(30)
        return "the page"

    monkeypatch.setattr(page, "make_page", made)
    with ThreadPoolExecutor() as pool:
        reports = [pool.submit(ann.get, f"{API}/sweeps/tiny/report") for _ in range(2)]
        assert all(asked.acquire(timeout=20) for _ in reports)
        submitted = pool.submit(ann.post, f"{API}/sweeps", json=body(name="other"))
        try:
            assert submitted.result(20).status_code == 201
        finally:
            back.set()
        assert [each.result().text for each in reports] == ["the page"] * 2


def test_what_is_away_is_said_and_worth_another_try(
    ann: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("SELECT", {}, ConnectionError("the server has closed the connection"))

    def ray_away(_: str) -> str:
        raise RayAway("no Ray cluster answers")

    ann.post(f"{API}/sweeps", json=body())
    monkeypatch.setattr(service.loop.ray, "logs", ray_away)
    answer = ann.get(f"{API}/sweeps/tiny/logs")
    assert (answer.status_code, answer.json()["message"]) == (503, "no Ray cluster answers")
    for question in ("find", "user_of"):  # behind the door, and at it
        monkeypatch.setattr(service.store, question, away)
        answer = ann.get(f"{API}/sweeps")
        assert answer.status_code == 503
        assert "database does not answer" in answer.json()["message"]
        assert answer.headers["Retry-After"] == "11"


# every endpoint, by who may use it


READ = ["", "/spec", "/trials", "/events", "/logs"]
CHANGE = [
    ("post", "/pause", None),
    ("post", "/resume", {}),
    ("put", "/priority", {"priority": -1}),
    ("post", "/stop", {}),
    ("post", "/extend", {"trials": "+1"}),
    ("delete", "", None),
]
WHO = {"viewer": 403, "submitter": 403, "owner": 0, "admin": 0, "nobody": 401, "guesser": 401}


def ask(client: TestClient, method: str, path: str, content: Any) -> int:
    options = {} if content is None else {"json": content}
    return client.request(method, f"{API}{path}", **options).status_code


@pytest.mark.parametrize("who", WHO)
def test_every_endpoint_by_role_and_owner(service: Service, who: str) -> None:
    owner, clients = service.client("ann"), {
        "viewer": service.client("vic", "viewer"),
        "submitter": service.client("sue"),
        "admin": service.client("root", "admin"),
        "nobody": service.client(None),
        "guesser": service.client(None, address="10.0.0.9"),
    }  # fmt: skip
    client = clients.get(who, owner)
    if who == "guesser":
        client.headers["Authorization"] = "Bearer sslsweep_guess"
    refused = WHO[who]
    assert owner.post(f"{API}/sweeps", json=body()).status_code == 201
    open_to_all = 401 if refused == 401 else 200
    paused = service.now()
    service.store.change(paused, state="PAUSED")
    for path in ["/sweeps", "/cluster", *(f"/sweeps/tiny{each}" for each in READ)]:
        assert ask(client, "get", path, None) == open_to_all, path
    for method, path in (("post", "/plan"), ("post", "/sweeps")):
        expected = {"viewer": 403, "nobody": 401, "guesser": 401}.get(who, 200 if path == "/plan" else 201)
        assert ask(client, method, path, body(name="new")) == expected
    for method, path, content in CHANGE:
        now = service.store.get("tiny")
        status = ask(client, method, f"/sweeps/tiny{path}", content)
        if refused:
            assert status in (refused, 429), path
            assert service.store.get("tiny") == now
        else:
            assert status in (200, 204, 409, 422), path
    left = service.store.get("tiny")
    assert (left is None) == (not refused)


def test_the_openapi_document_names_every_path_that_the_table_tests(service: Service) -> None:
    document = service.client(None).get("/openapi.json").json()
    paths = {path.removeprefix(API) for path in document["paths"]}
    tested = {f"/sweeps/{{name}}{each}" for each in READ} | {f"/sweeps/{{name}}{path}" for _, path, _ in CHANGE}
    tested |= {"/sweeps", "/cluster", "/plan", "/table", "/sweeps/{name}/report", "/sweeps/{name}/logs/follow"}
    assert paths == tested


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
    noted = [each for each in service.store.audited() if each["address"] == "10.0.0.66"]
    assert {each["status"] for each in noted} == {401, 429}
    assert "guess" not in json.dumps(noted)


def test_a_user_who_asks_too_often_is_slowed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PER_SECOND", 0.001)
    monkeypatch.setattr(guard, "BURST", 3)
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
    service = Service(tmp_path, open=True)
    client = service.client(None, address=address)
    assert client.get(f"{API}/sweeps", headers={**headers, "Host": host}).status_code == status


def test_with_the_first_token_loopback_is_closed_too(tmp_path: Path) -> None:
    service = Service(tmp_path, open=True)
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
    noted = [(each["user"], each["action"], each["status"]) for each in service.store.audited()]
    assert noted == [("vic", f"DELETE {API}/sweeps/tiny", 403), ("ann", f"POST {API}/sweeps", 201)]


def test_health_needs_no_token_and_says_nothing(service: Service) -> None:
    assert service.client(None).get("/healthz").json() == {"status": "ok"}
    assert service.client(None).get("/docs").status_code == 401
