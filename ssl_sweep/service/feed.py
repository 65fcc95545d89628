"""Server-sent events of sweeps: one query a second for each followed sweep, however many clients follow it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from ssl_sweep.service.states import ENDED
from ssl_sweep.service.store import Store, Submission

POLL_S, BEAT_S = 1.0, 15.0
PAGE = 500
BEAT = ": still here\n\n"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventBatch:
    """A sweep's events with numbers above `since`, up to `last`, as sent; `ended`: its state if it has ended."""

    since: int
    last: int
    events: Sequence[tuple[int, str]]
    ended: str | None

    def after(self, number: int) -> str:
        """The events above a number."""
        return "".join(text for each, text in self.events if each > number)


class Feed:
    """The events of all followed sweeps. Its methods are called in one event loop only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._channels: dict[str, Channel] = {}
        self.followers = 0

    async def follow(self, submission: Submission, last: int) -> AsyncIterator[str]:
        """A sweep's events above a number, each once and in order, until it ends; a heartbeat in silence."""
        self.followers += 1
        channel = self._channels.get(submission.id)
        if channel is None or channel.over:  # an ended sweep may have been resumed
            channel = self._channels[submission.id] = Channel(self._store, submission)
        channel.join()
        try:
            async for text in channel.events_after(last):
                yield text
        finally:
            self.followers -= 1
            if channel.leave() and self._channels.get(submission.id) is channel:
                del self._channels[submission.id]


class Channel:
    """One sweep's events while clients follow it."""

    def __init__(self, store: Store, submission: Submission) -> None:
        self._store, self._submission = store, submission
        self._batch: EventBatch | None = None  # the last one; a slower client reads the database
        self._changed = asyncio.Event()
        self._followers = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self._batch is not None and self._batch.ended is not None

    def join(self) -> None:
        self._followers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    def leave(self) -> bool:
        """Whether that was the last follower."""
        self._followers -= 1
        if not self._followers and self._task is not None:
            self._task.cancel()
        return not self._followers

    async def events_after(self, last: int) -> AsyncIterator[str]:
        """The events above a number as they happen."""
        while True:
            batch, changed = self._batch, self._changed
            if batch is not None and batch.since > last:  # the client missed a batch
                while events := await run_in_threadpool(self._store.events, self._submission.id, last, PAGE):
                    yield _all_sent(events)
                    last = events[-1]["number"]
            elif batch is not None:
                if text := batch.after(last):
                    yield text
                last = max(last, batch.last)
            if batch is not None and batch.ended is not None:
                yield _sent("end", {"state": batch.ended})
                return
            try:
                await asyncio.wait_for(changed.wait(), BEAT_S)
            except TimeoutError:
                yield BEAT

    async def _watch(self) -> None:
        while not self.over:
            try:
                batch = await run_in_threadpool(self._next_batch)
            except Exception as error:  # an unavailable database must not end the streams
                log.warning("the events of %s cannot be read (%s); trying again", self._submission.name, error)
            else:
                if self._batch is None or batch.events or batch.ended is not None:
                    self._batch = batch
                    self._changed, changed = asyncio.Event(), self._changed
                    changed.set()
            await asyncio.sleep(POLL_S)

    def _next_batch(self) -> EventBatch:
        since = self._store.last_event(self._submission.id) if self._batch is None else self._batch.last
        # the state is read before the events, so that the last ones are not missed
        state = self._store.state_of(self._submission.id)
        events = self._store.events(self._submission.id, since)
        sent = [(each["number"], _sent(each["kind"], each, each["number"])) for each in events]
        ended = "DELETED" if state is None else state if state in ENDED else None
        return EventBatch(since, sent[-1][0] if sent else since, sent, ended)


def _all_sent(events: Sequence[Mapping[str, Any]]) -> str:
    return "".join(_sent(each["kind"], each, each["number"]) for each in events)


def _sent(kind: str, data: Mapping[str, Any], number: int | None = None) -> str:
    """An event in the format of server-sent events."""
    return ("" if number is None else f"id: {number}\n") + f"event: {kind}\ndata: {json.dumps(data)}\n\n"
