"""The endpoints: what they answer, to whom, and what they refuse; with no Ray behind them."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from services import API, SPEC, Service, body
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.orders import give_order, read_orders
from ssl_sweep.service.jobs import RayUnavailableError
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.trialdir.requests import StopRequest


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
    for state in ("COMPLETE", "RUNNING"):
        assert ann.get(f"{API}/sweeps/tiny/trials", params={"state": state}).json()["total"] == 1
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


def test_trials_that_no_driver_runs_are_found_by_the_state_that_is_told(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    ledger = service.begun()
    first, second = ledger.ask().trials
    ledger.update(replace(first, state="COMPLETE", attempts=1, results={"knn/top1_val": 50.0}))
    ledger.update(replace(second, state="RUNNING", attempts=1))
    ledger.notes.write("lease", None)
    told = {}
    for state in ("COMPLETE", "RUNNING", "INTERRUPTED"):
        page = ann.get(f"{API}/sweeps/tiny/trials", params={"state": state}).json()
        told[state] = [each["trial_id"] for each in page["trials"]]
        assert {each["state"] for each in page["trials"]} <= {state}
    assert told == {"COMPLETE": [first.trial_id], "RUNNING": [], "INTERRUPTED": [second.trial_id]}


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


def test_a_sweep_goes_on_with_other_data_where_that_is_asked_for(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    service.begun("tiny", "COMPLETE")
    resume = f"{API}/sweeps/tiny/resume"
    assert ann.post(resume, json={"data_changed": "other"}).status_code in (400, 422)
    assert ann.post(resume, json={"data_changed": "keep"}).status_code == 409  # there is nothing to resume
    assert ann.post(resume, json={"data_changed": "restart"}).json()["state"] == "QUEUED"
    assert service.now().command == ("resume", "--data-changed=restart")


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
    assert queued.command == ("extend", "--choices=5")  # in all: run twice it is the same
    assert queued.spec["search"]["trials"] == 5


def test_a_stopped_sweep_is_extended_by_what_its_ledger_has_and_goes_on(ann: TestClient, service: Service) -> None:
    space = {"views.overlay_alpha": {"low": 0.0, "high": 0.2}}
    search = {"space": space, "sampler": "random", "trials": 3, "objective": "maximize knn/top1_val"}
    ann.post(f"{API}/sweeps", json=body(search=search))
    notes = service.begun("tiny", "STOPPED").notes
    give_order(notes, StopRequest("stop", "enough"))
    assert ann.post(f"{API}/sweeps/tiny/extend", json={"trials": "+2"}).json()["state"] == "QUEUED"
    assert read_orders(notes).sweep is None
    queued = service.now()
    service.store.change(queued, state="FAILED")  # before its driver has taken the extension
    ann.post(f"{API}/sweeps/tiny/extend", json={"trials": "+2"})
    again = service.now()
    assert again.command == ("extend", "--choices=5")


def test_what_mlflow_does_not_have_is_said(ann: TestClient, service: Service) -> None:
    ann.post(f"{API}/sweeps", json=body())
    paths = ("table?sweep=tiny", "sweeps/tiny/report")
    for path in paths:
        answer = ann.get(f"{API}/{path}")
        assert answer.status_code == 409
        assert answer.json()["message"] == "tiny has no results yet; it is QUEUED"
    service.begun()
    for path in paths:
        answer = ann.get(f"{API}/{path}")
        assert answer.status_code == 409
        assert "MLflow" in answer.json()["message"]


def test_who_waits_for_mlflow_holds_up_no_submission(
    ann: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssl_sweep.report import page

    ann.post(f"{API}/sweeps", json=body())
    service.begun()
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
        raise RayUnavailableError("no Ray cluster answers")

    ann.post(f"{API}/sweeps", json=body())
    monkeypatch.setattr(service.dispatcher.ray, "logs", ray_away)
    answer = ann.get(f"{API}/sweeps/tiny/logs")
    assert (answer.status_code, answer.json()["message"]) == (503, "no Ray cluster answers")
    for question in ("find", "user_of"):  # behind the middleware, and in it
        monkeypatch.setattr(service.store, question, away)
        answer = ann.get(f"{API}/sweeps")
        assert answer.status_code == 503
        assert "database does not answer" in answer.json()["message"]
        assert answer.headers["Retry-After"] == "11"
