"""The endpoints that only read: what there is, how it goes and what was found."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal, TypeVar

import anyio
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from ssl_sweep.best import NoSuchTrial
from ssl_sweep.ledger import read_ledger
from ssl_sweep.ledger_entries import LedgerError
from ssl_sweep.ledger_study import Ledger
from ssl_sweep.logs import log_part, log_path, sweep_logs, trial_log
from ssl_sweep.service.guard import Refused
from ssl_sweep.service.loop import Loop, job_name
from ssl_sweep.service.models import NAME, LogPart, Sweep, Sweeps, TrialPage, shown
from ssl_sweep.service.store import ENDED, Submission, User
from ssl_sweep.status import trial_status

MAX_STREAMS = 500
POLL_S, BEAT_S = 1.0, 15.0
MAX_LOG_CHARS = 200_000
FORMATS = {
    "md": "text/markdown",
    "tex": "application/x-tex",
    "csv": "text/csv",
    "json": "application/json",
    "html": "text/html",
}
router = APIRouter(prefix="/api/v1")
_heavy = anyio.CapacityLimiter(2)
_pages = anyio.CapacityLimiter(2)  # that MLflow is asked for: it may be away for minutes, and nobody else waits for it
_streams: set[object] = set()  # that follow events now
T = TypeVar("T")


def service_of(request: Request) -> Loop:
    """The service that this application is the front of."""
    loop: Loop = request.app.state.service
    return loop


def viewer(request: Request) -> User:
    """Anybody who was let in."""
    user: User = request.state.user
    return user


Service = Annotated[Loop, Depends(service_of)]
Viewer = Annotated[User, Depends(viewer)]
Name = Annotated[str, Path(pattern=NAME, examples=["alphas"])]
Named = Annotated[str, Query(pattern=NAME)]
TrialNamed = Annotated[str | None, Query(pattern=r"^[0-9a-f-]{1,36}$", description="a trial's id, or how it begins")]
Lines = Annotated[int, Query(ge=1, le=10_000, description="of the end of a log")]


def found(service: Loop, name: str) -> Submission:
    """A sweep that was submitted."""
    submission = service.store.get(name)
    if submission is None:
        raise Refused(404, f"no sweep named {name!r} was submitted here")
    return submission


async def heavy(work: Callable[..., T], *given: Any, **named: Any) -> T:
    """Do what takes seconds, two at a time, and have the rest of the service answer meanwhile."""
    return await anyio.to_thread.run_sync(lambda: work(*given, **named), limiter=_heavy)


async def _from_mlflow(make: Callable[[], T]) -> T:
    """Make what is read from MLflow, two at a time."""
    return await anyio.to_thread.run_sync(lambda: _readable(make), limiter=_pages)


@contextmanager
def ledger_of(service: Loop, name: str) -> Iterator[Ledger | None]:
    """The ledger of a submitted sweep; None where its driver has not begun."""
    found(service, name)
    with ExitStack() as stack:
        try:
            ledger = stack.enter_context(read_ledger(service.settings.storage.ledger_url, name))
        except LedgerError:
            ledger = None
        yield ledger


@router.get("/sweeps")
def sweeps(
    _: Viewer,
    service: Service,
    state: Annotated[list[str] | None, Query(max_length=10, description="only those in one of these states")] = None,
    owner: Annotated[str | None, Query(max_length=100)] = None,
    before: Annotated[float | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Sweeps:
    """List sweeps, newest first."""
    page = service.store.find(states=state or (), owner=owner, before=before, limit=limit)
    return Sweeps(sweeps=[shown(each) for each in page], next=page[-1].created if len(page) == limit else None)


@router.get("/sweeps/{name}")
def sweep(name: Name, _: Viewer, service: Service) -> Sweep:
    """Show one sweep: its state, why it waits, and how many trials are done."""
    return shown(found(service, name))


@router.get("/sweeps/{name}/spec")
def spec(name: Name, _: Viewer, service: Service) -> dict[str, Any]:
    """The sweep's spec, with every knob filled in."""
    return dict(found(service, name).spec)


@router.get("/sweeps/{name}/trials")
def trials(
    name: Name,
    _: Viewer,
    service: Service,
    state: Annotated[str | None, Query(max_length=20)] = None,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> TrialPage:
    """A sweep's trials: state, stage, epoch, attempts, and what failed."""
    with ledger_of(service, name) as ledger:
        if ledger is None:
            return TrialPage(trials=[], total=0)
        asked = [trial for trial in ledger.trials if state is None or trial.state == state]
        page = [trial_status(trial, ledger, service.settings.storage) for trial in asked[offset : offset + limit]]
    return TrialPage.model_validate({"trials": page, "total": len(asked)})


@router.get("/sweeps/{name}/events", response_class=StreamingResponse)
async def events(
    name: Name,
    request: Request,
    _: Viewer,
    service: Service,
    after: Annotated[int, Query(ge=0, le=2**62, description="number of the last event seen")] = 0,
) -> StreamingResponse:
    """Server-sent events until the sweep ends: its states and its trials', each with a number to go on after."""
    submission = await run_in_threadpool(found, service, name)
    seen = request.headers.get("last-event-id", "")
    last = int(seen[:18]) if seen.isdecimal() else after
    if len(_streams) >= MAX_STREAMS:
        raise Refused(429, f"{MAX_STREAMS} are following already", BEAT_S)
    return StreamingResponse(_stream(service, submission, last), media_type="text/event-stream")


async def _stream(service: Loop, submission: Submission, last: int) -> AsyncIterator[str]:
    own = object()
    _streams.add(own)
    spoke = time.monotonic()
    try:
        while True:
            now = await run_in_threadpool(service.store.get, submission.name)  # before its events: none is missed
            for event in await run_in_threadpool(service.store.events, submission.id, last, 500):
                last, spoke = event["number"], time.monotonic()
                yield f"id: {last}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n"
            if now is None or now.state in ENDED:
                if not await run_in_threadpool(service.store.events, submission.id, last, 1):
                    yield f"event: end\ndata: {json.dumps({'state': now.state if now else 'DELETED'})}\n\n"
                    return
                continue
            if time.monotonic() - spoke > BEAT_S:
                spoke = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(POLL_S)
    finally:
        _streams.discard(own)


@router.get("/sweeps/{name}/logs", response_class=PlainTextResponse)
async def logs(name: Name, _: Viewer, service: Service, trial: TrialNamed = None, lines: Lines = 20) -> str:
    """Why trials failed, each error once, or what running ones write; or one trial's log; or else its driver's."""

    def text() -> str:
        storage = service.settings.storage
        with ledger_of(service, name) as ledger:
            if ledger is not None:
                return trial_log(ledger, storage, trial, lines) if trial else sweep_logs(ledger, storage, lines)
        if trial:
            raise NoSuchTrial(f"{name} has no trials yet")
        printed = service.ray.logs(job_name(found(service, name))).splitlines(keepends=True)
        return "".join(printed[-lines:]) or f"{name} has written nothing yet\n"

    return (await heavy(text))[-MAX_LOG_CHARS:]


@router.get("/sweeps/{name}/logs/follow")
def follow(
    name: Name, _: Viewer, service: Service, trial: TrialNamed = None, offset: Annotated[int, Query(ge=0, le=2**62)] = 0
) -> LogPart:
    """What a trial, or the only one that runs, has written since an offset."""
    with ledger_of(service, name) as ledger:
        if ledger is None:
            raise NoSuchTrial(f"{name} has no trials yet")
        path = log_path(ledger, service.settings.storage, trial)
    text, end, ended = log_part(path, offset)
    return LogPart(trial=path.parent.name, text=text, offset=end, ended=ended)


@router.get("/table", response_class=PlainTextResponse)
async def table(
    _: Viewer,
    service: Service,
    sweep: Annotated[list[Named], Query(min_length=1, max_length=20, description="of one sweep, or of several in one")],
    form: Annotated[Literal["md", "tex", "csv", "json", "html"], Query(alias="format")] = "md",
    rows: Annotated[list[str] | None, Query(max_length=50)] = None,
    columns: Annotated[list[str] | None, Query(max_length=50)] = None,
    interval: Literal["std", "t", "bootstrap"] | None = None,
    baseline: Annotated[str | None, Query(max_length=200)] = None,
    test: Literal["t", "wilcoxon"] | None = None,
    group_by: Annotated[list[str] | None, Query(max_length=50)] = None,
) -> PlainTextResponse:
    """The ablation table, from MLflow; options rule over the spec's."""

    def made() -> str:
        from ssl_sweep.render import render
        from ssl_sweep.table_options import table_of

        names = [found(service, each).name for each in sweep]
        asked = {"rows": rows, "columns": columns, "group_by": group_by, "interval": interval, "baseline": baseline}
        result = table_of(dict.fromkeys(names, service.settings.storage.tracking_uri), **asked, test=test)
        return render(result, form, caption=", ".join(names)).rstrip("\n") + "\n"

    return PlainTextResponse(await _from_mlflow(made), media_type=FORMATS[form])


@router.get("/sweeps/{name}/report", response_class=HTMLResponse)
async def report(name: Name, _: Viewer, service: Service) -> HTMLResponse:
    """The sweep's page: table, plots, pictures, failures and cost in one HTML file."""

    def made() -> str:
        from ssl_sweep.report.page import make_page

        return make_page(found(service, name).name, service.settings.storage.tracking_uri)

    page = await _from_mlflow(made)
    # the page has a policy of its own, by the hashes of its scripts; it runs as no page of the service
    return HTMLResponse(page, headers={"Content-Security-Policy": "sandbox allow-scripts allow-downloads"})


def _readable(make: Callable[[], T]) -> T:
    """What is made from MLflow; what the package itself says against it is the answer."""
    try:
        return make()
    except (ValueError, LookupError, FileNotFoundError) as error:
        if type(error).__module__.startswith("ssl_sweep") or isinstance(error, FileNotFoundError):
            raise Refused(409, str(error)) from None
        raise
