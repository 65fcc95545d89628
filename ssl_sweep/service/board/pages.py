"""The board's pages, and the parts of them that the browser polls."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Query, Request, Response

from ssl_sweep.knobs.objective import parse_objectives
from ssl_sweep.service.access import User
from ssl_sweep.service.board.assets import page, part
from ssl_sweep.service.board.live import Compared, MetricNamed, run_read, snapshot_of
from ssl_sweep.service.board.trials import failure_kinds, trial_table
from ssl_sweep.service.dependencies import Name, Service, Viewer, get_submission
from ssl_sweep.service.drivers import job_name
from ssl_sweep.service.states import ACTIVE, ENDED, WAITING, SweepState
from ssl_sweep.service.store import Submission
from ssl_sweep.service.write_endpoints import cluster, may_change
from ssl_sweep.spec.views import with_views
from ssl_sweep.sweep.status import has_collapsed, last_sign, waits_of
from ssl_sweep.tracking.transcript import flat
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.states import TrialState

PAGE = 50  # sweeps
MAX_WAITING = 200  # on one page, in the order of the queue
GROUPS = {"active": (*ACTIVE, *WAITING), "running": ACTIVE, "waiting": WAITING, "ended": ENDED}
STATES = {**{state.lower(): (state,) for state in ENDED}, **GROUPS}
Filter = Literal["", "active", "running", "waiting", "ended", "complete", "failed", "stopped", "paused"]
Short = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]  # PostgreSQL takes no NUL
IGNORED = ("name", "description", "root", "tracking")  # keys of a spec in a comparison
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Action:
    """A button: its label, the question that it asks first, and its request."""

    label: str
    question: str
    endpoint: str
    content: str  # JSON


@router.get("/")
def sweeps(user: Viewer) -> Response:
    """The page of all sweeps."""
    return page("sweeps.html", user, states=get_args(Filter))


@router.get("/list")
def listed(
    request: Request,
    user: Viewer,
    service: Service,
    text: Short = "",
    state: Filter = "",
    owner: Short = "",
    before: Annotated[float | None, Query()] = None,
) -> Response:
    """The cluster's resources and the table of sweeps, newest first; waiting sweeps in the order of the queue."""
    places = service.places()
    limit = None if state == "waiting" else PAGE + 1
    shown = service.store.find(states=STATES.get(state, ()), owner=owner or None, text=text, before=before, limit=limit)
    if state == "waiting":
        shown = sorted(shown, key=lambda each: places.get(each.name, 0))[:MAX_WAITING]
    more = limit is not None and len(shown) > PAGE
    shown = shown[:PAGE] if more else shown
    return part(
        request,
        "list.html",
        sweeps=[_sweep_context(each, places) for each in shown],
        cluster=cluster(user, service),
        older=shown[-1].created if more else None,
        is_first=before is None,
        is_empty=not shown and not any(service.store.count_by_state().values()),
        server=str(request.base_url).rstrip("/"),
        user=user,
    )


@router.get("/sweeps/{name}")
def sweep(name: Name, user: Viewer, service: Service) -> Response:
    """The page of one sweep; the browser fetches its changing parts."""
    return page("sweep.html", user, sweep=get_submission(service, name))


@router.get("/sweeps/{name}/head")
def head(name: Name, request: Request, user: Viewer, service: Service) -> Response:
    """A sweep's state and progress, and buttons for what the user may do with it."""
    submission = get_submission(service, name)
    settings = service.settings
    job = job_name(submission) if submission.attempt else ""
    return part(
        request,
        "head.html",
        sweep=_sweep_context(submission, service.places() if submission.state in WAITING else {}),
        facts=_facts(submission),
        actions=actions(user, submission),
        mlflow=bool(settings.mlflow_url),
        ray=f"{settings.ray_url.rstrip('/')}/#/jobs/{job}" if settings.ray_url and job else "",
    )


@router.get("/sweeps/{name}/trials")
async def trials(
    name: Name,
    request: Request,
    _: Viewer,
    service: Service,
    metric: MetricNamed = None,
    sort: Annotated[str, Query(max_length=200)] = "choice",
    text: Short = "",
    state: Annotated[str, Query(pattern=r"^[A-Z]{0,20}$")] = "",
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
) -> Response:
    """One page of a sweep's trials."""

    def make() -> Response:
        snapshot = snapshot_of(request, service, name)
        shown = snapshot.metric(metric)
        table = trial_table(snapshot, metric=shown, sort=sort, text=text, state=state, page=page)
        storage = service.settings.storage
        stages = {
            row.trial.trial_id: _stage(storage.trial(name, row.trial.trial_id))
            for row in table.rows
            if row.trial.state == TrialState.RUNNING
        }
        collapsed = {
            row.trial.trial_id for row in table.rows if _has_collapsed(storage.trial(name, row.trial.trial_id))
        }
        mlflow = bool(service.settings.mlflow_url)
        return part(request, "trials.html", name=name, table=table, stages=stages, collapsed=collapsed, mlflow=mlflow)

    return await run_read(make)


@router.get("/sweeps/{name}/failures")
async def failures(name: Name, request: Request, _: Viewer, service: Service) -> Response:
    """Why trials failed or were pruned."""

    def make() -> Response:
        snapshot = snapshot_of(request, service, name)
        return part(request, "failures.html", name=name, kinds=snapshot.once("kinds", lambda: failure_kinds(snapshot)))

    return await run_read(make)


@router.get("/compare")
async def compare(user: Viewer, service: Service, sweep: Compared) -> Response:
    """The page that compares several sweeps."""

    def make() -> Response:
        submissions = [get_submission(service, each) for each in dict.fromkeys(sweep)]
        return page(
            "compare.html",
            user,
            sweeps=[_sweep_context(each, {}) for each in submissions],
            differing=_differing(submissions),
        )

    return await run_read(make)


def actions(user: User, submission: Submission) -> list[Action]:
    """What a user may do with a sweep in its current state."""
    name, state = submission.name, submission.state
    if not may_change(user, submission) or submission.asked:
        return []
    base, offered = f"/api/v1/sweeps/{name}", []
    kept = "Trials save a checkpoint at their next report; nothing is lost."
    if state in (*ACTIVE, *WAITING):
        offered.append(Action("Pause", f"Pause {name}? {kept} Resume continues it.", f"{base}/pause", "{}"))
    if state in (*ACTIVE, *WAITING, SweepState.PAUSED):
        offered.append(Action("Stop", f"Stop {name}? {kept} Resume would continue it.", f"{base}/stop", "{}"))
    if state in ENDED and state != SweepState.COMPLETE:
        question = f"Resume {name}? It is queued, and continues every trial that was stopped or failed."
        offered.append(Action("Resume", question, f"{base}/resume", "{}"))
        if failed := submission.counts.get("failed"):
            question = f"Try the {failed} failed trials of {name} again? It is queued with these trials only."
            offered.append(Action("Retry failed", question, f"{base}/resume", '{"failed": true}'))
    return offered


def _has_collapsed(folder: Path) -> bool:
    """Whether a trial's features collapsed; not if its journal is broken."""
    try:
        return has_collapsed(folder)
    except DamagedFileError:
        return False


def _stage(folder: Path) -> str:
    """A running trial's stage and epoch, or whom it waits for; empty if its journal is broken: the table shows all."""
    try:
        stage, epoch, _ = last_sign(folder)
    except DamagedFileError:
        return ""
    return waits_of(folder) or (f"{stage}, epoch {epoch}" if stage else "")


def _sweep_context(submission: Submission, places: Mapping[str, int]) -> dict[str, Any]:
    """A submission as the templates read it."""
    counts = submission.counts
    total = int(counts.get("total") or 0)
    shares = [(state, int(counts.get(state) or 0)) for state in ("complete", "pruned", "failed", "running")]
    objective = str(counts.get("objective") or "")
    return {
        "name": submission.name,
        "description": submission.spec.get("description") or "",
        "owner": submission.owner,
        "state": submission.state,
        "asked": submission.asked,
        "reason": submission.reason,
        "priority": submission.priority,
        "place": places.get(submission.name),
        "counts": counts,
        "total": total,
        "done": sum(count for state, count in shares if state != "running"),
        "bars": [(state, count, 100 * count / total) for state, count in shares if count and total],
        "metric": next((each.metric for each in parse_objectives(objective)), ""),
        "objective": objective,
        "best": counts.get("best"),
        "created": _time(submission.created),
        "launched": _time(submission.launched),
        "ended": _time(submission.ended),
    }


def _facts(submission: Submission) -> dict[str, Any]:
    spec, search = submission.spec, submission.spec.get("search") or {}
    facts = {
        "owner": submission.owner,
        "objective": submission.counts.get("objective"),
        "sampler": search.get("sampler"),
        "method": _name(spec.get("method")),
        "encoder": _name(spec.get("encoder")),
        "data": _name(spec.get("data"), "source"),
        "priority": submission.priority or None,
        "at a time": f"{submission.granted} trials" if submission.granted else None,
        "launches": submission.attempt if submission.attempt > 1 else None,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _name(section: Any, key: str = "name") -> str:
    """The name in a section of the spec; empty if it is searched."""
    name = section.get(key) if isinstance(section, Mapping) else section
    return name if isinstance(name, str) else ""


def _differing(submissions: list[Submission]) -> list[tuple[str, list[str]]]:
    """Paths of settings that differ, such as `views.overlay_alpha`, with each sweep's value."""
    resolved = [with_views(each.spec) for each in submissions]
    specs = [flat({key: value for key, value in each.items() if key not in IGNORED}) for each in resolved]
    paths = dict.fromkeys(path for spec in specs for path in spec)
    rows = {path: [spec.get(path, "") for spec in specs] for path in paths}
    return [(path, values) for path, values in rows.items() if len(set(values)) > 1]


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
