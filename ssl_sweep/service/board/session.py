"""Signing in and out, and error pages for browsers where API clients get JSON."""

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from ssl_sweep.service.access import User
from ssl_sweep.service.board.assets import page
from ssl_sweep.service.dependencies import Viewer
from ssl_sweep.service.middleware import BY_BOARD, COOKIE, STATIC, ApiError, error_json

SESSION_S = 30 * 86_400
HELP = {
    403: "Ask the sweep's owner or an admin.",
    404: "It may have been deleted, or its name may be misspelled.",
    409: "Go back and look at its current state.",
    422: "Check the address: a part of it is invalid.",
    429: "Wait a moment, then load the page again.",
    500: "The service's log has more. Sweeps continue.",
    503: "Sweeps continue. Load the page again in a while; if it persists, tell an admin of the service.",
}
router = APIRouter(include_in_schema=False)


@router.get("/sign-in")
def sign_in(request: Request) -> Response:
    """The sign-in form."""
    return _form(request, 200)


@router.get("/sign-in/sent")
def cookie_is_sent(request: Request) -> dict[str, bool]:
    """Whether the browser sent its cookie; it does not when a link on another site opened the board."""
    return {"sent": COOKIE in request.cookies}


@router.post("/session", status_code=204)
def start_session(request: Request, _: Viewer) -> Response:
    """Store the token of this authenticated request in a cookie that no script can read."""
    token = request.headers.get("authorization", "").partition(" ")[2].strip()
    if not token:
        raise ApiError(422, "no token was sent; the form at /sign-in sends one")
    answer = Response(status_code=204)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, token, max_age=SESSION_S, httponly=True, secure=secure, samesite="strict")
    return answer


@router.post("/sign-out", status_code=204)
def sign_out(request: Request) -> Response:
    """Delete the cookie."""
    if BY_BOARD not in request.headers:
        raise ApiError(403, "only the board's own pages sign out")
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def error_response(request: Request, error: HTTPException) -> Response:
    """The response to a refused request: a page for a browser, else JSON."""
    if not wants_page(request):
        return error_json(error)
    status, message = error.status_code, str(error.detail)
    answer = _form(request, status) if status == 401 else error_page(request, status, message)
    answer.headers.update(error.headers or {})
    return answer


def wants_page(request: Request) -> bool:
    """Whether a browser opens a page of the board."""
    path = request.url.path
    is_page = not path.startswith(("/api/", STATIC)) and request.method == "GET"
    return is_page and "text/html" in request.headers.get("accept", "")


def error_page(request: Request, status: int, message: str) -> Response:
    """A page that names the error and the remedy."""
    user: User | None = getattr(request.state, "user", None)
    known = user if user is not None and user.name != "-" else None
    return page("error.html", known, status, code=status, message=message, remedy=HELP.get(status, ""))


def _form(request: Request, status: int) -> Response:
    sent = COOKIE in request.cookies
    message = "You are signed out: the token is not valid any more." if sent and status == 401 else ""
    return page("sign_in.html", None, status, message=message, sent=sent)
