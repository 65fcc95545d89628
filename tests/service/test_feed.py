"""Who follows a sweep sees every event once and in order: many at a time, and after each of their lost connections."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from services import API, Service, body
from sqlalchemy.exc import OperationalError

from ssl_sweep.service import feed
from ssl_sweep.service.store import Store

CLIENTS, ROUNDS, A_ROUND = 20, 40, 5


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_S", 0.05)


def followed(url: str, token: str, drops: random.Random | None) -> list[int]:
    """The numbers of all events until the end, by a client that loses its connection now and then."""
    numbers: list[int] = []
    with httpx2.Client(base_url=url, headers={"Authorization": token}, timeout=60) as client:
        while True:
            headers = {"Last-Event-ID": str(numbers[-1])} if numbers else {}
            left = drops.randint(1, 60) if drops else -1
            with client.stream("GET", f"{API}/sweeps/tiny/events", headers=headers) as answer:
                for line in answer.iter_lines():
                    if line == "event: end":
                        return numbers
                    if line.startswith("id: "):
                        numbers.append(int(line.removeprefix("id: ")))
                        left -= 1
                    if left == 0:
                        break


def test_each_of_many_followers_sees_every_event_once_and_in_order(service: Service, url: str) -> None:
    client = service.client("ann")
    assert client.post(f"{API}/sweeps", json=body()).status_code == 201
    token = client.headers["Authorization"]
    with ThreadPoolExecutor(CLIENTS) as pool:
        drops = [random.Random(number) if number % 2 else None for number in range(CLIENTS)]
        followers = [pool.submit(followed, url, token, each) for each in drops]
        for number in range(ROUNDS):
            events = [{"trial_id": f"{number}-{each}", "trial_state": "COMPLETE"} for each in range(A_ROUND)]
            service.store.add_events(service.now().id, "trial", events)
            time.sleep(0.02)
        service.store.change(service.now(), state="COMPLETE")
        seen = [each.result(60) for each in followers]
    told = [each["number"] for each in service.store.events(service.now().id)]
    assert len(told) == ROUNDS * A_ROUND + 2
    assert all(each == told for each in seen)
    assert service.app.state.feed.followers == 0


def test_many_followers_cost_what_one_costs(service: Service, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = service.client("ann")
    client.post(f"{API}/sweeps", json=body())
    asked: list[str] = []
    state_of = Store.state_of

    def counted(store: Store, submission: str) -> str | None:
        asked.append(submission)
        return state_of(store, submission)

    monkeypatch.setattr(Store, "state_of", counted)
    with ThreadPoolExecutor(CLIENTS) as pool:
        followers = [pool.submit(followed, url, client.headers["Authorization"], None) for _ in range(CLIENTS)]
        while service.app.state.feed.followers < CLIENTS:
            time.sleep(0.01)
        asked.clear()
        time.sleep(1)
        assert 1 <= len(asked) <= 1 / feed.POLL_S + 1
        service.store.change(service.now(), state="STOPPED")
        assert all(each.result(60) for each in followers)


def test_a_database_that_is_away_for_a_moment_ends_no_stream(
    service: Service, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = service.client("ann")
    client.post(f"{API}/sweeps", json=body())
    state_of, misses = Store.state_of, [OperationalError("SELECT", {}, ConnectionError("away"))] * 3

    def away(store: Store, submission: str) -> str | None:
        if misses:
            raise misses.pop()
        return state_of(store, submission)

    monkeypatch.setattr(Store, "state_of", away)
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(followed, url, client.headers["Authorization"], None)
        while misses:
            time.sleep(0.01)
        service.store.change(service.now(), state="STOPPED")
        assert len(follower.result(60)) == 2
