"""What happens to sweeps, told to everybody who follows: one question a second a sweep, however many follow it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from ssl_sweep.service.store import ENDED, Store, Submission

POLL_S, BEAT_S = 1.0, 15.0
PAGE = 500
BEAT = ": still here\n\n"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """A sweep's events with numbers above `since`, up to `last`, as they are sent; `ended`: how it has ended."""

    since: int
    last: int
    events: Sequence[tuple[int, str]]
    ended: str | None

    def after(self, number: int) -> str:
        """Those above a number."""
        return "".join(text for each, text in self.events if each > number)


class Feed:
    """The events of every sweep that is followed. Of one event loop: its methods are called in no other thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._channels: dict[str, Channel] = {}
        self.followers = 0

    async def follow(self, submission: Submission, last: int) -> AsyncIterator[str]:
        """A sweep's events above a number, each once and in order, until it ends; a sign of life in silence."""
        self.followers += 1
        channel = self._channels.get(submission.id)
        if channel is None or channel.over:  # a sweep that has ended may go on
            channel = self._channels[submission.id] = Channel(self._store, submission)
        channel.join()
        try:
            async for text in channel.told(last):
                yield text
        finally:
            self.followers -= 1
            if channel.leave() and self._channels.get(submission.id) is channel:
                del self._channels[submission.id]


class Channel:
    """One sweep's events, as long as somebody follows it."""

    def __init__(self, store: Store, submission: Submission) -> None:
        self._store, self._submission = store, submission
        self._news: News | None = None  # the last that there were; who was slower asks the database
        self._changed = asyncio.Event()
        self._followers = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self._news is not None and self._news.ended is not None

    def join(self) -> None:
        self._followers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    def leave(self) -> bool:
        """Whether that was the last who followed."""
        self._followers -= 1
        if not self._followers and self._task is not None:
            self._task.cancel()
        return not self._followers

    async def told(self, last: int) -> AsyncIterator[str]:
        """What comes after a number."""
        while True:
            news, changed = self._news, self._changed
            if news is not None and news.since > last:  # the database knows what was missed
                while events := await run_in_threadpool(self._store.events, self._submission.id, last, PAGE):
                    yield _all_sent(events)
                    last = events[-1]["number"]
            elif news is not None:
                if text := news.after(last):
                    yield text
                last = max(last, news.last)
            if news is not None and news.ended is not None:
                yield _sent("end", {"state": news.ended})
                return
            try:
                await asyncio.wait_for(changed.wait(), BEAT_S)
            except TimeoutError:
                yield BEAT

    async def _watch(self) -> None:
        while not self.over:
            try:
                found = await run_in_threadpool(self._look)
            except Exception as error:  # a database that is away for a moment ends no stream
                log.warning("the events of %s cannot be read (%s); trying on", self._submission.name, error)
            else:
                if self._news is None or found.events or found.ended is not None:
                    self._news = found
                    self._changed, changed = asyncio.Event(), self._changed
                    changed.set()
            await asyncio.sleep(POLL_S)

    def _look(self) -> News:
        since = self._store.last_event(self._submission.id) if self._news is None else self._news.last
        state = self._store.state_of(self._submission.id)  # before its events: none is missed
        events = self._store.events(self._submission.id, since)
        sent = [(each["number"], _sent(each["kind"], each, each["number"])) for each in events]
        ended = "DELETED" if state is None else state if state in ENDED else None
        return News(since, sent[-1][0] if sent else since, sent, ended)


def _all_sent(events: Sequence[Mapping[str, Any]]) -> str:
    return "".join(_sent(each["kind"], each, each["number"]) for each in events)


def _sent(kind: str, data: Mapping[str, Any], number: int | None = None) -> str:
    """A server-sent event."""
    return ("" if number is None else f"id: {number}\n") + f"event: {kind}\ndata: {json.dumps(data)}\n\n"
