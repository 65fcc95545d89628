"""A cache of responses that many clients poll: each is made once for all of them, and 304 answers an unchanged one."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

KEEP_S = 1.0  # changes that other processes make in the databases appear after this time
SHARE = 10  # at most a tenth of the time is spent on making one response again
STALE_S = 3.0  # for so long after its expiry a response is still sent, while a new one is made
MAX_ENTRIES = 256
log = logging.getLogger(__name__)


class CachedBody(NamedTuple):
    """A response's body and its ETag."""

    content: bytes
    etag: str


@dataclass
class CacheEntry:
    """The last body for one request, the version of the data behind it, and when it expires."""

    version: Hashable = None
    until: float = 0.0
    body: CachedBody | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while a body is made

    def make(self, version: Hashable, make: Callable[[], BaseModel]) -> CachedBody:
        began = time.monotonic()
        content = make().model_dump_json().encode()
        self.body = CachedBody(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        cost = time.monotonic() - began
        self.version, self.until = version, began + cost + max(KEEP_S, SHARE * cost)
        return self.body


class ResponseCache:
    """The last bodies by request. They are the same for all users: whoever may read one may read all.

    A request does not wait for a body that is being made again: that would take threads from other requests.
    """

    def __init__(self) -> None:
        self._entries: dict[str, CacheEntry] = {}
        self._lock = threading.Lock()
        self._refresher = ThreadPoolExecutor(1, "response-cache")

    def get(self, request: str, version: Hashable, make: Callable[[], BaseModel]) -> CachedBody:
        """The body for a request, some seconds old at most, and never of another `version` of the data."""
        with self._lock:
            entry = self._entries.setdefault(request, CacheEntry())
            if len(self._entries) > MAX_ENTRIES:
                self._entries.pop(next(iter(self._entries)))
        body, age = entry.body, time.monotonic() - entry.until
        if body is not None and entry.version == version and age < STALE_S:
            if age > 0 and entry.lock.acquire(blocking=False):
                self._refresher.submit(self._refresh, entry, version, make)
            return body
        with entry.lock:
            is_fresh = entry.version == version and time.monotonic() < entry.until
            return entry.body if is_fresh and entry.body else entry.make(version, make)

    def _refresh(self, entry: CacheEntry, version: Hashable, make: Callable[[], BaseModel]) -> None:
        try:
            entry.make(version, make)
        except Exception:  # a thread's edge: the next request makes the body itself and reports the error
            log.info("a cached response could not be made again", exc_info=True)
            entry.body = None
        finally:
            entry.lock.release()


Respond = Callable[[Hashable, Callable[[], BaseModel]], Response]


def respond_from_cache(
    request: Request,
    if_none_match: Annotated[
        str | None, Header(max_length=100, description="the `ETag` of the last answer", examples=['"5f0e"'])
    ] = None,
) -> Respond:
    """A function that answers this request from the cache, given a version and how the body is made."""
    cache: ResponseCache = request.app.state.response_cache

    def respond(version: Hashable, make: Callable[[], BaseModel]) -> Response:
        body = cache.get(f"{request.url.path}?{request.url.query}", version, make)
        headers = {"ETag": body.etag, "Cache-Control": "private, no-cache"}
        if if_none_match == body.etag:
            return Response(status_code=304, headers=headers)
        return Response(body.content, headers=headers, media_type="application/json")

    return respond


CachedResponse = Annotated[Respond, Depends(respond_from_cache)]
