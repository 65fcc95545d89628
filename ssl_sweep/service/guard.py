"""The door: who is let in, how often, with how much, and what is written down about it."""

import logging
import threading
import time
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import urlsplit

from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssl_sweep.service.access import Access, User
from ssl_sweep.service.listener import is_loopback

MAX_BODY = 400_000  # bytes; a spec has 100,000 characters at most
TOO_LARGE = f"a request has at most {MAX_BODY:,} bytes; is it the right file?"
PUBLIC = ("/healthz", "/openapi.json", "/sign-in", "/sign-in/sent", "/sign-out")
STATIC = "/static/"  # style sheets and scripts, the same for everybody
COOKIE = "ssl_sweep_token"  # of who has signed in to the board
BY_BOARD = "x-board"  # a header that a page of another site cannot send
SAFE = ("GET", "HEAD")
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
PER_SECOND, BURST = 50.0, 200.0  # a user's requests
AWAY_S = 10.0  # after which to ask a database again
MAX_KEYS = 10_000  # of those whose rate is known
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
log = logging.getLogger(__name__)


class Rate:
    """So many a second, and so many at once, for each key."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """Take one, or say how many seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            left, then = self._left.get(key, (self._burst, now))
            left = min(self._burst, left + (now - then) * self._per_second)
            if left < 1:
                return (1 - left) / self._per_second
            if len(self._left) >= MAX_KEYS:
                self._left.pop(next(iter(self._left)))
            self._left[key] = (left - 1, now)
            return 0.0


class Refused(HTTPException):
    """A request that is not answered, with its status and the reason."""

    def __init__(self, status: int, message: str, wait_s: float = 0.0) -> None:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        super().__init__(status, message, {**headers, "Retry-After": str(int(wait_s) + 1)} if wait_s else headers)


class Guard:
    """Stands before everything else of the service."""

    def __init__(
        self, app: ASGIApp, store: Access, open_here: bool, told: Callable[[Request, HTTPException], Response]
    ) -> None:
        """told: the answer to who is refused."""
        self.app, self.store, self.open_here, self.told = app, store, open_here, told
        self.requests = Rate(PER_SECOND, BURST)  # a user's
        self.notes = Rate(per_second=0.1, burst=20)  # of what strangers try, by address
        self.guesses = Rate(per_second=1 / 6, burst=10)  # wrong tokens of an address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # nothing here speaks over web sockets
        status = 0  # of the answer, once it has begun

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        user = User("-", "viewer")
        try:
            if scope["path"] not in PUBLIC and not scope["path"].startswith(STATIC):
                user = await run_in_threadpool(self._let_in, HTTPConnection(scope))
            scope.setdefault("state", {})["user"] = user
            await self.app(scope, _bounded(scope, receive), sending)
        except Refused as refused:
            await self.told(Request(scope), refused)(scope, receive, sending)
        except OperationalError:
            log.exception("a database does not answer")
            if status:
                raise
            away = Refused(503, "the service's database does not answer; try again in a while", AWAY_S)
            await self.told(Request(scope), away)(scope, receive, sending)
        finally:
            changes = scope["method"] not in SAFE
            told = user.name != "-" or not self.notes.wait(_address(scope))  # a flood must not fill the disk
            if told and (changes or status in (401, 403, 429)):
                action = f"{scope['method']} {scope['path']}"
                await run_in_threadpool(self._note, user.name, _address(scope), action, status or 500)

    def _let_in(self, request: HTTPConnection) -> User:
        headers = request.headers
        if (origin := headers.get("origin")) and urlsplit(origin).netloc != headers.get("host"):
            raise Refused(403, "a page of another site may not use the service")
        address = _address(request.scope)
        user = self._known(headers, address) or self._neighbour(request) or self._signed_in(request, address)
        if user is None:
            raise Refused(401, "a token is needed: `Authorization: Bearer TOKEN`; an admin makes one with "
                          "`ssl-sweep token create`")  # fmt: skip
        if wait := self.requests.wait(user.name):
            raise Refused(429, f"{user.name} asks too often", wait)
        return user

    def _known(self, headers: Headers, address: str) -> User | None:
        """Whose token it is; None where there is none."""
        given = headers.getlist("authorization")
        if not given:
            return None
        scheme, _, token = given[0].partition(" ")
        user = self.store.user_of(token.strip()) if scheme.lower() == "bearer" and len(given) == 1 else None
        return user or self._guessed(address)

    def _signed_in(self, request: HTTPConnection, address: str) -> User | None:
        """Who has signed in to the board; its pages say so beside every change, which those of other sites cannot."""
        token = request.cookies.get(COOKIE)
        if token is None:
            return None
        if request.scope["method"] not in SAFE and BY_BOARD not in request.headers:
            raise Refused(403, f"a change by cookie needs the header {BY_BOARD}, which the board's own pages send")
        return self.store.user_of(token) or self._guessed(address)

    def _guessed(self, address: str) -> NoReturn:
        # a right one is let in however many wrong ones came from its proxy's address
        if wait := self.guesses.wait(address):
            raise Refused(429, "too many wrong tokens came from this address", wait)
        raise Refused(401, "this token is not known; an admin makes one with `ssl-sweep token create`")

    def _neighbour(self, request: HTTPConnection) -> User | None:
        """Somebody of this machine, where that is enough: not through a proxy, nor by a name that leads here."""
        if not self.open_here or any(name in request.headers for name in FORWARDED):
            return None
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if not (is_loopback(host) and is_loopback(_address(request.scope))) or self.store.has_tokens():
            return None
        return User("local", "admin")

    def _note(self, user: str, address: str, action: str, status: int) -> None:
        try:
            self.store.note(user, address, action, status)
        except Exception:  # what was done is done
            log.exception("the audit log could not take %s", (user, address, action, status))


def _address(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else "-"


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """The request's body, refused as soon as it is too long, whatever it says about its length."""
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY:
        raise Refused(413, TOO_LARGE)
    read = 0

    async def receiving() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY:
            raise Refused(413, TOO_LARGE)
        return message

    return receiving


def answered(error: HTTPException) -> JSONResponse:
    """What the client is told of a refusal."""
    return JSONResponse({"message": error.detail, "problems": []}, error.status_code, error.headers)
