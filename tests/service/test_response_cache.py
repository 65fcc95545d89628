"""The response cache: the old body at once while a new one is made, but never for long or for another version."""

import threading
import time

import pytest
from pydantic import BaseModel
from servers import eventually

from ssl_sweep.service import response_cache
from ssl_sweep.service.response_cache import ResponseCache


class Count(BaseModel):
    number: int


class Counter:
    """Makes 1, 2, 3, ...; from the second on it waits until it may."""

    def __init__(self) -> None:
        self.made, self.may = 0, threading.Event()

    def __call__(self) -> Count:
        self.made += 1
        if self.made > 1:
            assert self.may.wait(30)
        return Count(number=self.made)


def test_who_asks_while_an_answer_is_made_anew_has_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_cache, "KEEP_S", 0.0)
    monkeypatch.setattr(response_cache, "SHARE", 0)
    monkeypatch.setattr(response_cache, "STALE_S", 60.0)
    cache, count = ResponseCache(), Counter()
    first = cache.get("sweeps", 1, count)
    assert [cache.get("sweeps", 1, count) for _ in range(5)] == [first] * 5  # or it waited
    count.may.set()
    assert eventually(lambda: cache.get("sweeps", 1, count) != first, 30)


def test_an_answer_that_is_too_old_or_of_another_version_is_made_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_cache, "KEEP_S", 0.0)
    monkeypatch.setattr(response_cache, "SHARE", 0)
    monkeypatch.setattr(response_cache, "STALE_S", 0.05)
    cache, count = ResponseCache(), Counter()
    count.may.set()
    assert cache.get("sweeps", 1, count).content == b'{"number":1}'
    assert cache.get("sweeps", 2, count).content == b'{"number":2}'
    time.sleep(0.1)
    assert cache.get("sweeps", 2, count).content == b'{"number":3}'


def test_what_cannot_be_made_anew_is_told_to_who_asks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_cache, "KEEP_S", 0.0)
    monkeypatch.setattr(response_cache, "SHARE", 0)
    monkeypatch.setattr(response_cache, "STALE_S", 60.0)
    cache = ResponseCache()
    cache.get("sweeps", 1, lambda: Count(number=1))

    def broken() -> Count:
        raise LookupError("the ledger is away")

    def refuses() -> bool:
        try:
            cache.get("sweeps", 1, broken)
        except LookupError:
            return True
        return False

    assert eventually(refuses, 30)
