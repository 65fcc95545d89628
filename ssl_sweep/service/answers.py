"""Answers that many ask for again and again: made once for all of them, and not sent to who has the same already."""

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

KEEP_S = 1.0  # what others have written into the databases is seen after this time
SHARE = 10  # an answer is made for a tenth of the time at most
STALE_S = 3.0  # for so long after that the old answer is given, while a new one is made
MAX_KEPT = 256
log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A body and its ETag."""

    content: bytes
    tag: str


@dataclass
class Kept:
    """An answer, and what it was made of."""

    version: Hashable = None
    until: float = 0.0
    answer: Answer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # of who makes it

    def make(self, version: Hashable, made: Callable[[], BaseModel]) -> Answer:
        began = time.monotonic()
        content = made().model_dump_json().encode()
        self.answer = Answer(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        cost = time.monotonic() - began
        self.version, self.until = version, began + cost + max(KEEP_S, SHARE * cost)
        return self.answer


class Answers:
    """The last answers by what was asked. They depend on nobody: who may look may see all.

    Nobody waits for what others wait for as well: that would take the threads of those who ask for something else.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._lock = threading.Lock()
        self._makers = ThreadPoolExecutor(1, "answers")

    def of(self, asked: str, version: Hashable, made: Callable[[], BaseModel]) -> Answer:
        """The answer to a question, at most some seconds old where its `version` is the same."""
        with self._lock:
            kept = self._kept.setdefault(asked, Kept())
            if len(self._kept) > MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
        answer, age = kept.answer, time.monotonic() - kept.until
        if answer is not None and kept.version == version and age < STALE_S:
            if age > 0 and kept.lock.acquire(blocking=False):
                self._makers.submit(self._renew, kept, version, made)
            return answer
        with kept.lock:
            fresh = kept.version == version and time.monotonic() < kept.until
            return kept.answer if fresh and kept.answer else kept.make(version, made)

    def _renew(self, kept: Kept, version: Hashable, made: Callable[[], BaseModel]) -> None:
        try:
            kept.make(version, made)
        except Exception:  # a thread's edge: who asks next is told
            log.info("an answer could not be made again", exc_info=True)
            kept.answer = None
        finally:
            kept.lock.release()


Answered = Callable[[Hashable, Callable[[], BaseModel]], Response]


def answered(
    request: Request,
    if_none_match: Annotated[
        str | None, Header(max_length=100, description="the `ETag` of the last answer", examples=['"5f0e"'])
    ] = None,
) -> Answered:
    """Answers this request from what is kept."""
    answers: Answers = request.app.state.answers

    def answer(version: Hashable, make: Callable[[], BaseModel]) -> Response:
        kept = answers.of(f"{request.url.path}?{request.url.query}", version, make)
        headers = {"ETag": kept.tag, "Cache-Control": "private, no-cache"}
        if if_none_match == kept.tag:
            return Response(status_code=304, headers=headers)
        return Response(kept.content, headers=headers, media_type="application/json")

    return answer


Again = Annotated[Answered, Depends(answered)]
