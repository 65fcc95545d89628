"""The service as an application: its endpoints, middleware and dispatcher, and how errors become responses."""

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
from ssl_sweep.service import read_endpoints, write_endpoints
from ssl_sweep.service.board import assets, live, pages, session
from ssl_sweep.service.board.snapshot import Snapshots
from ssl_sweep.service.dependencies import Service, Viewer
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.feed import Feed
from ssl_sweep.service.jobs import RayUnavailableError
from ssl_sweep.service.metrics import exposition
from ssl_sweep.service.middleware import AuthMiddleware
from ssl_sweep.service.models import MAX_PROBLEMS, ErrorBody, Problem, error_responses, spec_errors
from ssl_sweep.service.response_cache import ResponseCache
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store, StoreError
from ssl_sweep.sweep.best import NoSuchTrial


def make_app(store: Store, dispatcher: Dispatcher, settings: Settings, *, run_dispatcher: bool = True) -> FastAPI:
    """The service as an ASGI application; with `run_dispatcher` the dispatcher starts and stops with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if run_dispatcher:
            dispatcher.start()
        yield
        if run_dispatcher:
            dispatcher.stop()

    app = FastAPI(
        title="ssl_sweep",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=error_responses(),
    )
    app.state.service, app.state.feed, app.state.response_cache = dispatcher, Feed(store), ResponseCache()
    app.state.snapshots = Snapshots()
    app.include_router(write_endpoints.router)
    app.include_router(read_endpoints.router)
    app.add_api_route("/healthz", _health, include_in_schema=False)
    app.add_api_route("/metrics", _metrics, include_in_schema=False)
    for board in (assets, session, pages, live):
        app.include_router(board.router)
    app.add_middleware(
        AuthMiddleware, access=store, trust_local=settings.trust_local, error_response=session.error_response
    )
    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(SpecError, lambda request, error: _error_response(request, 422, spec_errors(error)))
    app.add_exception_handler(
        RequestValidationError, lambda request, error: _error_response(request, 422, _invalid_request(error))
    )
    app.add_exception_handler(HTTPException, lambda request, error: session.error_response(request, error))
    statuses = {
        StoreError: 409,
        LedgerError: 404,
        NoSuchTrial: 404,
        LedgerUnreachableError: 503,
        RayUnavailableError: 503,
    }
    for kind, status in statuses.items():
        app.add_exception_handler(kind, _respond_with(status))
    fault = ErrorBody(message="internal error of the service; its log has more")
    app.add_exception_handler(Exception, lambda request, _: _error_response(request, 500, fault))


def _health() -> dict[str, str]:
    return {"status": "ok"}


def _metrics(_: Viewer, service: Service) -> Response:
    return Response(exposition(service), media_type="text/plain; version=0.0.4")


def _respond_with(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: _error_response(request, status, ErrorBody(message=str(error)))


def _error_response(request: Request, status: int, body: ErrorBody) -> Response:
    if session.wants_page(request):
        problems = [f"{each.place}: {each.message}" for each in body.problems]
        return session.error_page(request, status, "; ".join([body.message, *problems]))
    # json.dumps writes ASCII: a quoted value may hold lone surrogates, which are no UTF-8
    return Response(json.dumps(body.model_dump()), status, media_type="application/json")


def _quoted(error: Mapping[str, Any]) -> str | None:
    """The rejected value; nothing of a text that is too long."""
    return None if error["type"] == "string_too_long" else str(error.get("input"))[:200]


def _invalid_request(error: RequestValidationError) -> ErrorBody:
    """What in a request differs from the OpenAPI document."""
    problems = [
        Problem(place=".".join(map(str, each["loc"])), value=_quoted(each), message=each["msg"])
        for each in error.errors()[:MAX_PROBLEMS]
    ]
    return ErrorBody(message="the request is not as the service's OpenAPI document says", problems=problems)
