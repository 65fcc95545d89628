"""Signing in and out, and how a browser is told what a client is told as JSON."""

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from ssl_sweep.service.access import User
from ssl_sweep.service.board.assets import page
from ssl_sweep.service.endpoint import Viewer
from ssl_sweep.service.guard import BY_BOARD, COOKIE, STATIC, Refused, answered

STAYS_S = 30 * 86_400
HELP = {
    403: "Ask the sweep's owner or an admin.",
    404: "It may have been deleted, or its name is written otherwise.",
    409: "Go back, and look at how things stand now.",
    422: "Check the address: a part of it is not as it should be.",
    429: "Wait a moment, then load the page again.",
    500: "The service's log says more. Sweeps go on without it.",
    503: "Sweeps go on without it. Load the page again in a while; if it stays so, tell who runs the service.",
}
router = APIRouter(include_in_schema=False)


@router.get("/sign-in")
def sign_in(request: Request) -> Response:
    """A form for a token."""
    return _form(request, 200)


@router.get("/sign-in/sent")
def sent(request: Request) -> dict[str, bool]:
    """Whether the browser sends its cookie: it does not where a link of another site has led to the board."""
    return {"sent": COOKIE in request.cookies}


@router.post("/session", status_code=204)
def keep(request: Request, _: Viewer) -> Response:
    """Keep the token, with which the door has just let somebody in, in a cookie that no script reads."""
    token = request.headers.get("authorization", "").partition(" ")[2].strip()
    if not token:
        raise Refused(422, "no token was sent; the form at /sign-in sends one")
    answer = Response(status_code=204)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, token, max_age=STAYS_S, httponly=True, secure=secure, samesite="strict")
    return answer


@router.post("/sign-out", status_code=204)
def sign_out(request: Request) -> Response:
    """Forget the token."""
    if BY_BOARD not in request.headers:
        raise Refused(403, "only the board's own pages sign out")
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def refused(request: Request, error: HTTPException) -> Response:
    """The answer to a request that is refused: a page for who reads pages."""
    if not wants_page(request):
        return answered(error)
    status, said = error.status_code, str(error.detail)
    answer = _form(request, status) if status == 401 else told(request, status, said)
    answer.headers.update(error.headers or {})
    return answer


def wants_page(request: Request) -> bool:
    """Whether it is a person who opens an address of the board."""
    path = request.url.path
    is_page = not path.startswith(("/api/", STATIC)) and request.method == "GET"
    return is_page and "text/html" in request.headers.get("accept", "")


def told(request: Request, status: int, message: str) -> Response:
    """A page that says what is wrong, and what to do."""
    user: User | None = getattr(request.state, "user", None)
    known = user if user is not None and user.name != "-" else None
    return page("error.html", known, status, code=status, message=message, remedy=HELP.get(status, ""))


def _form(request: Request, status: int) -> Response:
    sent = COOKIE in request.cookies
    message = "You are signed out: the token is not valid any more." if sent and status == 401 else ""
    return page("sign_in.html", None, status, message=message, sent=sent)
