"""ASGI middleware: authentication, rate and size limits, security headers and the audit log."""

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
COOKIE = "ssl_sweep_token"  # holds the token of a user who has signed in to the board
BY_BOARD = "x-board"  # a header that a page of another site cannot send
SAFE = ("GET", "HEAD")
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
PER_SECOND, BURST = 50.0, 200.0  # requests of a user
AWAY_S = 10.0  # until a database that does not answer should be tried again
MAX_KEYS = 10_000  # that a rate limiter remembers
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
log = logging.getLogger(__name__)


class RateLimiter:
    """A token bucket for each key: `per_second` on average, `burst` at once."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """Take one token and return 0; without one, return the seconds until there is one."""
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


class ApiError(HTTPException):
    """A request that is refused, with its HTTP status and the reason."""

    def __init__(self, status: int, message: str, wait_s: float = 0.0) -> None:
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        super().__init__(status, message, {**headers, "Retry-After": str(int(wait_s) + 1)} if wait_s else headers)


class AuthMiddleware:
    """Authenticates, limits and audits every request before it reaches an endpoint."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        trust_local: bool,
        error_response: Callable[[Request, HTTPException], Response],
    ) -> None:
        """trust_local: requests from this machine need no token until there are tokens."""
        self.app, self.access, self.trust_local, self.error_response = app, access, trust_local, error_response
        self.requests = RateLimiter(PER_SECOND, BURST)  # by user
        self.audits = RateLimiter(per_second=0.1, burst=20)  # audit entries without a user, by address
        self.guesses = RateLimiter(per_second=1 / 6, burst=10)  # wrong tokens, by address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # the service has no web sockets
        status = 0  # of the response, once it has begun

        async def send_with_headers(message: Message) -> None:
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
                user = await run_in_threadpool(self._authenticate, HTTPConnection(scope))
            scope.setdefault("state", {})["user"] = user
            await self.app(scope, _size_limited(scope, receive), send_with_headers)
        except ApiError as error:
            await self.error_response(Request(scope), error)(scope, receive, send_with_headers)
        except OperationalError:
            log.exception("a database does not answer")
            if status:
                raise
            away = ApiError(503, "the service's database does not answer; try again in a while", AWAY_S)
            await self.error_response(Request(scope), away)(scope, receive, send_with_headers)
        finally:
            await self._audit(scope, user, status)

    def _authenticate(self, request: HTTPConnection) -> User:
        headers = request.headers
        if (origin := headers.get("origin")) and urlsplit(origin).netloc != headers.get("host"):
            raise ApiError(403, "a page of another site may not use the service")
        address = _address(request.scope)
        user = (
            self._user_of_header(headers, address)
            or self._local_user(request)
            or self._user_of_cookie(request, address)
        )
        if user is None:
            raise ApiError(401, "a token is needed: `Authorization: Bearer TOKEN`; an admin makes one with "
                           "`ssl-sweep token create`")  # fmt: skip
        if wait := self.requests.wait(user.name):
            raise ApiError(429, f"{user.name} asks too often", wait)
        return user

    def _user_of_header(self, headers: Headers, address: str) -> User | None:
        """The user whose token the header has; None without a header."""
        given = headers.getlist("authorization")
        if not given:
            return None
        scheme, _, token = given[0].partition(" ")
        user = self.access.user_of(token.strip()) if scheme.lower() == "bearer" and len(given) == 1 else None
        return user or self._reject_token(address)

    def _user_of_cookie(self, request: HTTPConnection, address: str) -> User | None:
        """The user who has signed in to the board. Changes need a header that other sites cannot send."""
        token = request.cookies.get(COOKIE)
        if token is None:
            return None
        if request.scope["method"] not in SAFE and BY_BOARD not in request.headers:
            raise ApiError(403, f"a change by cookie needs the header {BY_BOARD}, which the board's own pages send")
        return self.access.user_of(token) or self._reject_token(address)

    def _reject_token(self, address: str) -> NoReturn:
        # only wrong tokens are limited: users behind one proxy share an address, and a right token always gets in
        if wait := self.guesses.wait(address):
            raise ApiError(429, "too many wrong tokens came from this address", wait)
        raise ApiError(401, "this token is not known; an admin makes one with `ssl-sweep token create`")

    def _local_user(self, request: HTTPConnection) -> User | None:
        """An admin, if this machine is trusted and the request comes from it: no proxy, and no foreign host name."""
        if not self.trust_local or any(name in request.headers for name in FORWARDED):
            return None
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if not (is_loopback(host) and is_loopback(_address(request.scope))) or self.access.has_tokens():
            return None
        return User("local", "admin")

    async def _audit(self, scope: Scope, user: User, status: int) -> None:
        """Record changes and refusals; those without a user only up to a rate, so that a flood cannot fill the disk."""
        address = _address(scope)
        is_allowed = user.name != "-" or not self.audits.wait(address)
        if is_allowed and (scope["method"] not in SAFE or status in (401, 403, 429)):
            action = f"{scope['method']} {scope['path']}"
            await run_in_threadpool(self._record, user.name, address, action, status or 500)

    def _record(self, user: str, address: str, action: str, status: int) -> None:
        try:
            self.access.record_action(user, address, action, status)
        except Exception:  # the request has taken effect already
            log.exception("the audit log could not take %s", (user, address, action, status))


def _address(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else "-"


def _size_limited(scope: Scope, receive: Receive) -> Receive:
    """Receive the request's body, but refuse it as soon as it is too long, whatever length its header states."""
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY:
        raise ApiError(413, TOO_LARGE)
    read = 0

    async def receive_some() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY:
            raise ApiError(413, TOO_LARGE)
        return message

    return receive_some


def error_json(error: HTTPException) -> JSONResponse:
    """An error as API clients read it."""
    return JSONResponse({"message": error.detail, "problems": []}, error.status_code, error.headers)
