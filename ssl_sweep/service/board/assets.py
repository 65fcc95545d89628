"""Templates, style sheets and scripts of the board's pages; nothing comes from another host."""

import gzip
import hashlib
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ssl_sweep import __version__, report
from ssl_sweep.report.figures import number_text, shortened
from ssl_sweep.service.access import User
from ssl_sweep.service.middleware import STATIC, ApiError
from ssl_sweep.tables.labels import MARKS, NOTHING, display_name, duration, in_percent, value_text
from ssl_sweep.trialdir.states import TrialState

HERE, REPORT = Path(__file__).parent, Path(str(report.__file__)).parent
FILES = {
    "light.css": REPORT,
    "dark.css": REPORT,
    "page.css": REPORT,
    "plots.js": REPORT,
    "board.css": HERE / "static",
    "theme.js": HERE / "static",
    "board.js": HERE / "static",
    "drawing.js": HERE / "static",
    "trials.js": HERE / "static",
    "sign_in.js": HERE / "static",
}
PLOTLY = "plotly.js"
# unsafe-inline: plotly writes style attributes
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FOREVER = "public, max-age=31536000, immutable"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
router = APIRouter(include_in_schema=False)


class Asset(NamedTuple):
    """A file as it is sent. Its URL has a hash of its content, so that browsers may cache it for ever."""

    plain: bytes
    gzipped: bytes
    digest: str


@router.get(STATIC + "{digest}/{name}")
def static(digest: str, name: str, request: Request) -> Response:
    """A style sheet or script."""
    if name not in (*FILES, PLOTLY):
        raise ApiError(404, f"there is no file {name!r}")
    asset, headers = _asset(name), {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
    if digest != asset.digest:  # from a page of another version of the service
        raise ApiError(404, f"{name} has changed; load the page again")
    content = asset.plain
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = asset.gzipped, "gzip"
    return Response(content, media_type=TYPES[Path(name).suffix], headers=headers)


def page(template: str, user: User | None, status: int = 200, **context: Any) -> HTMLResponse:
    """A whole page."""
    body = _environment().get_template(template).render(user=user, **context)
    return HTMLResponse(body, status, headers={"Content-Security-Policy": POLICY})


def part(request: Request, template: str, **context: Any) -> Response:
    """A part of a page, or 304 if the browser has it."""
    return if_new(request, _environment().get_template(template).render(**context).encode(), "text/html")


def if_new(request: Request, body: bytes, media_type: str) -> Response:
    """A body, or 304 if the browser has it."""
    tag = f'"{_digest(body)}"'
    if request.headers.get("if-none-match", "").removeprefix("W/") == tag:  # a proxy that compresses makes the tag weak
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, media_type=media_type, headers={"ETag": tag})


@cache
def _asset(name: str) -> Asset:
    if name == PLOTLY:
        from plotly.offline.offline import get_plotlyjs

        plain = str(get_plotlyjs()).encode()  # type: ignore[no-untyped-call]
    else:
        plain = (FILES[name] / name).read_bytes()
    return Asset(plain, gzip.compress(plain, 6, mtime=0), _digest(plain))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"static": _address, "version": __version__, "MARKS": MARKS}
    environment.filters |= {
        "duration": duration,
        "number": number_text,
        "value": value_text,
        "shortened": shortened,
        "name": display_name,
        "percent": _percent,
        "counted": _counted,
        "decimal": _decimal,
    }
    return environment


@cache
def _address(name: str) -> str:
    return f"{STATIC}{_asset(name).digest}/{name}"


def _percent(metric: str) -> str:
    return "\u202f%" if in_percent(metric) else ""


def _decimal(number: float | None, decimals: int) -> str:
    return NOTHING if number is None or not math.isfinite(number) else f"{number:.{decimals}f}"


def _counted(counts: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """State, mark and number of trials; those that have not begun last."""
    by_state = [(state.lower(), mark, int(counts.get(state.lower()) or 0)) for state, mark in MARKS.items()]
    return [
        each for each in (*by_state, ("waiting", MARKS[TrialState.CREATED], int(counts.get("waiting") or 0))) if each[2]
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]
