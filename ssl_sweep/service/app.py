"""The service as an application: endpoints, door and loop put together, and how what goes wrong is told."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ssl_sweep import __version__
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.ledger.database import LedgerUnreachableError
from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.service import api, reading
from ssl_sweep.service.answers import Answers
from ssl_sweep.service.board import assets, live, pages, session
from ssl_sweep.service.board.snapshot import Snapshots
from ssl_sweep.service.endpoint import Service, Viewer
from ssl_sweep.service.feed import Feed
from ssl_sweep.service.guard import Guard
from ssl_sweep.service.jobs import RayAway
from ssl_sweep.service.loop import Loop
from ssl_sweep.service.metrics import exposition
from ssl_sweep.service.models import MAX_PROBLEMS, Problem, Wrong, refusals, wrong
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store, StoreError
from ssl_sweep.sweep.best import NoSuchTrial


def make_app(store: Store, loop: Loop, settings: Settings, *, runs: bool = True) -> FastAPI:
    """The service as an application; `runs`: its loop goes with it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        if runs:
            loop.start()
        yield
        if runs:
            loop.stop()

    app = FastAPI(
        title="ssl_sweep", version=__version__, lifespan=life, docs_url=None, redoc_url=None, responses=refusals()
    )
    app.state.service, app.state.feed, app.state.answers = loop, Feed(store), Answers()
    app.include_router(api.router)
    app.include_router(reading.router)
    app.add_api_route("/healthz", _health, include_in_schema=False)
    app.add_api_route("/metrics", _metrics, include_in_schema=False)
    app.state.snapshots = Snapshots()
    for board in (assets, session, pages, live):
        app.include_router(board.router)
    app.add_middleware(Guard, store=store, open_here=settings.open, told=session.refused)
    app.add_exception_handler(SpecError, lambda request, error: _told(request, 422, wrong(error)))
    app.add_exception_handler(RequestValidationError, lambda request, error: _told(request, 422, _unread(error)))
    app.add_exception_handler(HTTPException, lambda request, error: session.refused(request, error))
    for kind, status in {
        StoreError: 409,
        LedgerError: 404,
        NoSuchTrial: 404,
        LedgerUnreachableError: 503,
        RayAway: 503,
    }.items():
        app.add_exception_handler(kind, _as(status))
    mistake = Wrong(message="the service made a mistake; its log has more")
    app.add_exception_handler(Exception, lambda request, _: _told(request, 500, mistake))
    return app


def _health() -> dict[str, str]:
    return {"status": "ok"}


def _metrics(_: Viewer, service: Service) -> Response:
    return Response(exposition(service), media_type="text/plain; version=0.0.4")


def _as(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: _told(request, status, Wrong(message=str(error)))


def _told(request: Request, status: int, content: Wrong) -> Response:
    if session.wants_page(request):
        problems = [f"{each.place}: {each.message}" for each in content.problems]
        return session.told(request, status, "; ".join([content.message, *problems]))
    # in ASCII: a value that is quoted may have been no text at all
    return Response(json.dumps(content.model_dump()), status, media_type="application/json")


def _quoted(error: Mapping[str, Any]) -> str | None:
    """What was sent in the wrong place; nothing of a text that is too long."""
    return None if error["type"] == "string_too_long" else str(error.get("input"))[:200]


def _unread(error: RequestValidationError) -> Wrong:
    """A request that is not as the OpenAPI document says."""
    found = [
        Problem(place=".".join(map(str, each["loc"])), value=_quoted(each), message=each["msg"])
        for each in error.errors()[:MAX_PROBLEMS]
    ]
    return Wrong(message="the request is not as the service's OpenAPI document says", problems=found)
