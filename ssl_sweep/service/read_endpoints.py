"""Endpoints that only read: sweeps, trials, events, logs, tables and reports."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.open import read_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.service import examples
from ssl_sweep.service.dependencies import (
    Name,
    Named,
    Service,
    Viewer,
    from_mlflow,
    get_submission,
    is_driven,
    run_slow,
)
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.drivers import job_name
from ssl_sweep.service.feed import BEAT_S, Feed
from ssl_sweep.service.middleware import ApiError
from ssl_sweep.service.models import LogPart, Sweep, Sweeps, TrialPage, error_responses, sweep_body
from ssl_sweep.service.response_cache import CachedResponse
from ssl_sweep.service.states import WAITING
from ssl_sweep.sweep.best import NoSuchTrial
from ssl_sweep.sweep.logs import find_log, read_log, sweep_logs, trial_log
from ssl_sweep.sweep.status import trial_statuses, trials_in

MAX_STREAMS = 500
MAX_LOG_CHARS = 200_000
FORMATS = {
    "md": "text/markdown",
    "tex": "application/x-tex",
    "csv": "text/csv",
    "json": "application/json",
    "html": "text/html",
}


def _examples(contents: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    """ResponseCache by their media types, for the OpenAPI document."""
    schemas = {kind: {"type": "string" if isinstance(like, str) else "object"} for kind, like in contents.items()}
    return {200: {"content": {kind: {"schema": schemas[kind], "example": like} for kind, like in contents.items()}}}


EVENTS = _examples({"text/event-stream": examples.EVENT})
EVENTS[200]["content"]["text/event-stream"]["schema"] = {  # of each event
    "type": "object",
    "properties": {each: {"type": "string"} for each in examples.EVENT},
    "required": ["event", "data"],
}
SAME: dict[int | str, dict[str, Any]] = {
    304: {"description": "unchanged since the response with the ETag in `If-None-Match`"}
}
router = APIRouter(prefix="/api/v1")
TrialNamed = Annotated[
    str | None,
    Query(pattern=r"^[0-9a-f-]{1,36}$", description="a trial's id, or a prefix of it", examples=[examples.TRIAL_ID]),
]
Lines = Annotated[int, Query(ge=1, le=10_000, description="how many lines from the end of a log", examples=[20])]


@contextmanager
def ledger_of(service: Dispatcher, name: str) -> Iterator[LedgerReader | None]:
    """The ledger of a submitted sweep; None before its driver has begun."""
    get_submission(service, name)
    with ExitStack() as stack:
        try:
            ledger = stack.enter_context(read_ledger(service.settings.storage.ledger_url, name))
        except LedgerError:
            ledger = None
        yield ledger


@router.get("/sweeps", response_model=Sweeps, responses=SAME | error_responses(422))
def sweeps(
    _: Viewer,
    service: Service,
    respond: CachedResponse,
    state: Annotated[
        list[str] | None,
        Query(max_length=10, description="only sweeps in one of these states", examples=[["QUEUED", "RUNNING"]]),
    ] = None,
    owner: Annotated[str | None, Query(max_length=100, examples=["ann"])] = None,
    before: Annotated[float | None, Query(description="`next` of the previous page", examples=[1795352400.0])] = None,
    limit: Annotated[int, Query(ge=1, le=500, examples=[100])] = 100,
) -> Response:
    """List sweeps, newest first."""

    def make() -> Sweeps:
        page = service.store.find(states=state or (), owner=owner, before=before, limit=limit)
        return Sweeps(sweeps=[sweep_body(each) for each in page], next=page[-1].created if len(page) == limit else None)

    return respond(service.store.version, make)


@router.get("/sweeps/{name}", response_model=Sweep, responses=SAME | error_responses(404, 422))
def sweep(name: Name, _: Viewer, service: Service, respond: CachedResponse) -> Response:
    """Show one sweep: its state, why it waits, and how many trials are done."""
    return respond(service.store.version, lambda: sweep_body(get_submission(service, name)))


@router.get(
    "/sweeps/{name}/spec", responses=_examples({"application/json": examples.FULL_SPEC}) | error_responses(404, 422)
)
def spec(name: Name, _: Viewer, service: Service) -> dict[str, Any]:
    """The sweep's spec, with every knob filled in."""
    return dict(get_submission(service, name).spec)


@router.get("/sweeps/{name}/trials", response_model=TrialPage, responses=SAME | error_responses(404, 422))
def trials(
    name: Name,
    _: Viewer,
    service: Service,
    respond: CachedResponse,
    state: Annotated[str | None, Query(max_length=20, examples=["FAILED"])] = None,
    offset: Annotated[int, Query(ge=0, le=10**9, examples=[0])] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, examples=[200])] = 200,
) -> Response:
    """A sweep's trials: state, stage, epoch, attempts and failure."""

    def make() -> TrialPage:
        with ledger_of(service, name) as ledger:
            if ledger is None:
                return TrialPage(trials=[], total=0)
            matching = trials_in(ledger, state)
            page = trial_statuses(matching[offset : offset + limit], ledger, service.settings.storage)
        return TrialPage.model_validate({"trials": page, "total": len(matching)})

    now = get_submission(service, name)
    return respond((now.id, now.state, now.attempt), make)


@router.get("/sweeps/{name}/events", response_class=Response, responses=EVENTS | error_responses(404, 422))
async def events(
    name: Name,
    request: Request,
    _: Viewer,
    service: Service,
    after: Annotated[int, Query(ge=0, le=2**62, description="number of the last event seen", examples=[7])] = 0,
    seen: Annotated[
        str | None, Header(alias="Last-Event-ID", description="the same, as browsers send it", examples=["7"])
    ] = None,
) -> Response:
    """Server-sent events until the sweep ends: its states and its trials', each with a number to resume after."""
    submission = await run_in_threadpool(get_submission, service, name)
    last = int(seen[:18]) if seen is not None and seen.isdecimal() else after
    feed: Feed = request.app.state.feed
    if feed.followers >= MAX_STREAMS:
        raise ApiError(429, f"{MAX_STREAMS} are following already", BEAT_S)
    return StreamingResponse(feed.follow(submission, last), media_type="text/event-stream")


@router.get(
    "/sweeps/{name}/logs",
    response_class=Response,
    responses=_examples({"text/plain": examples.LOG}) | error_responses(404, 422),
)
async def logs(name: Name, _: Viewer, service: Service, trial: TrialNamed = None, lines: Lines = 20) -> Response:
    """Why trials failed, each error once, or what running ones log; or one trial's log; or the driver's."""

    def text() -> str:
        storage = service.settings.storage
        with ledger_of(service, name) as ledger:
            if ledger is not None:
                return trial_log(ledger, storage, trial, lines) if trial else sweep_logs(ledger, storage, lines)
        if trial:
            raise NoSuchTrial(f"{name} has no trials yet")
        printed = service.ray.logs(job_name(get_submission(service, name))).splitlines(keepends=True)
        return "".join(printed[-lines:]) or f"{name} has written nothing yet\n"

    return PlainTextResponse((await run_slow(text))[-MAX_LOG_CHARS:])


@router.get("/sweeps/{name}/logs/follow", responses=error_responses(404, 422))
def follow(
    name: Name,
    _: Viewer,
    service: Service,
    trial: TrialNamed = None,
    offset: Annotated[int, Query(ge=0, le=2**62, examples=[0])] = 0,
) -> LogPart:
    """What a trial, or the only running one, has logged since an offset."""
    with ledger_of(service, name) as ledger:
        if ledger is None:
            raise NoSuchTrial(f"{name} has no trials yet")
        logged, path = find_log(ledger, service.settings.storage, trial)
    text, end, ended = read_log(logged, path, offset)
    return LogPart(trial=path.parent.name, text=text, offset=end, ended=ended)


@router.get("/table", response_class=Response, responses=_examples(examples.TABLES) | error_responses(404, 409, 422))
async def table(
    _: Viewer,
    service: Service,
    sweep: Annotated[
        list[Named],
        Query(min_length=1, max_length=20, description="one sweep, or several in one table", examples=[["alphas"]]),
    ],
    form: Annotated[Literal["md", "tex", "csv", "json", "html"], Query(alias="format", examples=["md"])] = "md",
    rows: Annotated[list[str] | None, Query(max_length=50, examples=[["views.overlay_alpha"]])] = None,
    columns: Annotated[list[str] | None, Query(max_length=50, examples=[["knn/top1_test"]])] = None,
    interval: Annotated[Literal["std", "t", "bootstrap"] | None, Query(examples=["t"])] = None,
    baseline: Annotated[str | None, Query(max_length=200, examples=["views.overlay_alpha=0"])] = None,
    test: Annotated[Literal["t", "wilcoxon"] | None, Query(examples=["t"])] = None,
    group_by: Annotated[list[str] | None, Query(max_length=50, examples=[["method"]])] = None,
) -> Response:
    """The ablation table, from MLflow; options override the spec's."""

    def make() -> str:
        from ssl_sweep.tables.options import table_of
        from ssl_sweep.tables.render import render

        names = [_launched(service, each) for each in sweep]
        lists = {"rows": rows, "columns": columns, "group_by": group_by}
        options: dict[str, Any] = {**lists, "interval": interval, "baseline": baseline, "test": test}
        stores = dict.fromkeys(names, service.settings.storage.tracking_uri)
        result = table_of(stores, partial(is_driven, service), **options)
        return render(result, form, caption=", ".join(names)).rstrip("\n") + "\n"

    return PlainTextResponse(await from_mlflow(make), media_type=FORMATS[form])


@router.get(
    "/sweeps/{name}/report",
    response_class=Response,
    responses=_examples({"text/html": examples.REPORT}) | error_responses(404, 409, 422),
)
async def report(name: Name, _: Viewer, service: Service) -> Response:
    """The sweep's page: table, plots, pictures, failures and cost in one HTML file."""

    def make() -> str:
        from ssl_sweep.report.page import make_page

        uri = service.settings.storage.tracking_uri
        return make_page(_launched(service, name), uri, partial(is_driven, service))

    page = await from_mlflow(make)
    # sandboxed from the service; the page itself allows its scripts by their hashes
    return HTMLResponse(page, headers={"Content-Security-Policy": "sandbox allow-scripts allow-downloads"})


def _launched(service: Dispatcher, name: str) -> str:
    """A sweep's name if MLflow can have runs of it. Raises ApiError."""
    submission = get_submission(service, name)
    if submission.launched is None and submission.state in WAITING:
        why = f": {submission.reason}" if submission.reason else ""
        raise ApiError(409, f"{name} has no results yet; it is {submission.state}{why}")
    return submission.name
