"""Answers that many ask for again and again: made once for all of them, and not sent to who has the same already."""

import hashlib
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

KEEP_S = 1.0  # what others have written into the databases is seen after this time
SHARE = 10  # an answer is made for a tenth of the time at most
MAX_KEPT = 256


@dataclass
class Kept:
    """An answer, and what it was made of."""

    version: Hashable = None
    until: float = 0.0
    content: bytes = b""
    tag: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Answers:
    """The last answers by what was asked. They depend on nobody: who may look may see all."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._lock = threading.Lock()

    def of(self, asked: str, version: Hashable, make: Callable[[], BaseModel]) -> Kept:
        """The answer to a question, made anew where it is old or its `version` has changed."""
        with self._lock:
            kept = self._kept.setdefault(asked, Kept())
            if len(self._kept) > MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
        with kept.lock:  # who asks meanwhile waits for it
            began = time.monotonic()
            if kept.version != version or began > kept.until:
                kept.content = make().model_dump_json().encode()
                kept.tag = f'"{hashlib.sha256(kept.content).hexdigest()[:32]}"'
                cost = time.monotonic() - began
                kept.version, kept.until = version, began + cost + max(KEEP_S, SHARE * cost)
            return Kept(content=kept.content, tag=kept.tag)


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
