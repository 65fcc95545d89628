"""Endpoints that change something: submit, control and delete sweeps."""

import time
import uuid
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Response

from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.open import load_ledger, sweep_names
from ssl_sweep.ledger.orders import clear_orders
from ssl_sweep.service.access import User
from ssl_sweep.service.dependencies import Name, Service, Viewer, get_submission, run_slow
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.middleware import ApiError, RateLimiter
from ssl_sweep.service.models import (
    Cluster,
    Extend,
    Planned,
    Prioritize,
    Resume,
    Spec,
    Stop,
    Submit,
    Sweep,
    error_responses,
    plan_body,
    sweep_body,
)
from ssl_sweep.service.spec_check import check_submitted, parse_submitted
from ssl_sweep.service.states import ACTIVE, ENDED, WAITING, SweepState
from ssl_sweep.service.store import Submission
from ssl_sweep.spec.plan import Plan, make_plan
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.sweep.extension import extend_spec
from ssl_sweep.sweep.steering import place_order, stop_or_pause
from ssl_sweep.trialdir.requests import StopRequest

STEERED = error_responses(400, 404, 409, 422)
SUBMITTED: dict[int | str, dict[str, Any]] = {200: {"model": Sweep, "description": "submitted before, with this key"}}
TRIES = 5  # of a change, each of which the dispatcher may forestall
router = APIRouter(prefix="/api/v1")
spec_checks = RateLimiter(per_second=0.5, burst=30)  # per user: checking a spec takes seconds


def submitter(user: Viewer) -> User:
    """A user who may change something."""
    if user.role == "viewer":
        raise ApiError(403, f"{user.name} may only read; an admin makes a token with --role submitter")
    return user


Submitter = Annotated[User, Depends(submitter)]


@router.post("/plan", responses=error_responses(400, 422))
async def plan(body: Spec, user: Submitter, service: Service) -> Planned:
    """Plan a sweep: its cost, and whether its trials fit the cluster. Runs nothing."""
    spec, size = await run_slow(_checked_spec, service, user, body)
    return plan_body(spec.name, size, fitted=service.capacity is not None)


@router.post("/sweeps", status_code=201, responses=SUBMITTED | error_responses(400, 409, 422))
async def submit(
    body: Submit,
    user: Submitter,
    service: Service,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[!-~]{1,200}$",
            description="a repeated request with the same key makes no second sweep",
            examples=["3f0c9b6e"],
        ),
    ] = None,
) -> Sweep:
    """Put a sweep into the queue."""
    _check_priority(user, body.priority)
    new = await run_slow(_new_submission, service, user, body, idempotency_key)
    known = await run_slow(service.store.find, owner=user.name, client_key=idempotency_key) if idempotency_key else []
    earlier = known[0] if known else None
    if earlier is None:
        if await run_slow(_has_begun, service, new.name):
            raise ApiError(409, f"there are results of a sweep named {new.name!r}; give the new one another name")
        earlier = await run_slow(service.store.add, new)
    if earlier.id != new.id:
        if earlier.spec != new.spec:
            raise ApiError(409, f"the key was used for another spec, of {earlier.name!r}; give each sweep its own key")
        response.status_code = 200
    return sweep_body(earlier)


@router.post("/sweeps/{name}/stop", responses=STEERED)
def stop(name: Name, body: Stop, user: Submitter, service: Service, after: BackgroundTasks) -> Sweep:
    """Stop a sweep, or some of its trials: each saves a checkpoint at its next report and ends."""
    if not body.trials:
        return _end(service, name, user, "stop", after)
    submission = get_own_submission(service, name, user)
    if submission.state not in ACTIVE:
        raise ApiError(409, f"{name} does not run: it is {submission.state}")
    ledger = load_ledger(service.settings.storage.ledger_url, name)
    place_order(ledger, StopRequest("stop", f"ssl-sweep stop by {user.name}"), body.trials)
    return sweep_body(get_submission(service, name))


@router.post("/sweeps/{name}/pause", responses=error_responses(404, 409, 422))
def pause(name: Name, user: Submitter, service: Service, after: BackgroundTasks) -> Sweep:
    """Pause a sweep, to be resumed later; its trials end as in a stop."""
    return _end(service, name, user, "pause", after)


@router.post("/sweeps/{name}/resume", responses=STEERED)
def resume(name: Name, body: Resume, user: Submitter, service: Service) -> Sweep:
    """Queue a sweep again that has ended, or was paused or stopped."""
    old = get_own_submission(service, name, user)
    if old.state not in ENDED:
        raise ApiError(409, f"{name} is {old.state}" + (f" and asked to {old.asked}" if old.asked else ""))
    if old.state == SweepState.COMPLETE and body.data_changed != "restart":
        raise ApiError(409, f"{name} is complete: there is nothing to resume of it")
    words = (*(["--failed"] if body.failed else []), *(f"--trial={each}" for each in body.trials), *_on_data(body))
    begun = _has_begun(service, name)
    if body.trials and not begun:
        raise ApiError(409, f"{name} has not begun: it has no trials to choose from; resume all of it")
    command = ("resume", *words) if begun else ("run",)
    return _requeue(service, old, command=command)


@router.post("/sweeps/{name}/extend", responses=STEERED)
async def extend(name: Name, body: Extend, user: Submitter, service: Service) -> Sweep:
    """Run more choices of an ended sweep; overrides may widen its ranges."""
    old = get_own_submission(service, name, user)
    if old.state not in ENDED:
        raise ApiError(409, f"{name} is {old.state}; pause it before it is extended")
    spec = await run_slow(_extended_spec, service, old, body)
    words = (f"--choices={spec.search.trials}", *(f"--set={each}" for each in body.overrides), *_on_data(body))
    resources = _requested_resources(spec, spec.search.trials or 1)
    return _requeue(service, old, command=("extend", *words), spec=spec.model_dump(mode="json"), **resources)


@router.put("/sweeps/{name}/priority", responses=STEERED)
def prioritize(name: Name, body: Prioritize, user: Submitter, service: Service) -> Sweep:
    """Change a sweep's priority, which matters while it waits."""
    _check_priority(user, body.priority)
    for _ in range(TRIES):
        if service.store.change(get_own_submission(service, name, user), priority=body.priority):
            return sweep_body(get_submission(service, name))
    raise _keeps_changing(name)


@router.delete("/sweeps/{name}", status_code=204, responses=error_responses(404, 409, 422))
def delete(name: Name, user: Submitter, service: Service) -> None:
    """Delete a sweep that does not run from the service; its results stay in storage and in MLflow."""
    old = get_own_submission(service, name, user)
    if old.state in ACTIVE or not service.store.remove(old):
        raise ApiError(409, f"{name} is {old.state}; stop it first")


@router.get("/cluster")
def cluster(_: Viewer, service: Service) -> Cluster:
    """The cluster's resources, and the part that running sweeps hold."""
    held, capacity = service.store.find(states=ACTIVE), service.capacity
    return Cluster(
        trouble=service.trouble,
        cpus=capacity.cpus if capacity else None,
        gpus=capacity.gpus if capacity else None,
        cpus_given=sum(each.cpus * each.granted for each in held),
        gpus_given=sum(each.gpus * each.granted for each in held),
        waiting=len(service.store.find(states=WAITING)),
        running=len(held),
    )


def may_change(user: User, submission: Submission) -> bool:
    """Whether a user may change a sweep: its owner may, and every admin."""
    return user.role == "admin" or (user.role == "submitter" and user.name == submission.owner)


def get_own_submission(service: Dispatcher, name: str, user: User) -> Submission:
    """A sweep that this user may change. Raises ApiError."""
    submission = get_submission(service, name)
    if not may_change(user, submission):
        raise ApiError(403, f"{name} is {submission.owner}'s: only they and admins may change it")
    return submission


def _checked_spec(service: Dispatcher, user: User, body: Spec) -> tuple[SweepSpec, Plan]:
    if wait := spec_checks.wait(user.name):
        raise ApiError(429, f"{user.name} sends too many specs", wait)
    spec = parse_submitted(body.spec, body.overrides, service.settings.data_roots)
    capacity = service.capacity
    return spec, make_plan(spec, [{"CPU": capacity.cpus, "GPU": capacity.gpus}] if capacity else None)


def _new_submission(service: Dispatcher, user: User, body: Submit, key: str | None) -> Submission:
    spec, size = _checked_spec(service, user, body)
    now = time.time()
    return Submission(
        id=uuid.uuid4().hex,
        name=spec.name,
        owner=user.name,
        spec=spec.model_dump(mode="json"),
        created=now,
        queued=now,
        client_key=key,
        priority=body.priority,
        counts={
            "name": spec.name,
            "phase": "searching",
            "total": size.trials,
            **dict.fromkeys(("complete", "running", "interrupted", "failed", "stopped", "paused", "pruned"), 0),
            "waiting": size.trials,
            "objective": spec.search.objective,
            "best": None,
        },
        **_requested_resources(spec, size.trials),
    )


def _requested_resources(spec: SweepSpec, trials: int) -> dict[str, Any]:
    """The resources that a sweep requests from the queue."""
    resources = spec.resources
    slots = min(trials, resources.max_concurrent or trials)
    return {"slots": slots, "cpus": resources.workers * resources.cpus, "gpus": resources.workers * resources.gpus}


def _extended_spec(service: Dispatcher, old: Submission, body: Extend) -> SweepSpec:
    """The spec with more choices than the ledger has. Clears an earlier stop, since the extension must run."""
    if not _has_begun(service, old.name):
        raise ApiError(409, f"{old.name} has not begun; resume it first, or delete it and submit a longer one")
    ledger = load_ledger(service.settings.storage.ledger_url, old.name)
    # the submission may hold an extension that never ran, and the ledger's resources are those last granted
    base = from_dump(old.spec).model_copy(update={"search": ledger.spec.search})
    spec = extend_spec(base, body.trials, body.overrides)
    check_submitted(spec, service.settings.data_roots)
    clear_orders(ledger.notes, ledger.notes.read())
    return spec


def _on_data(body: Resume | Extend) -> tuple[str, ...]:
    return (f"--data-changed={body.data_changed}",) if body.data_changed else ()


def _end(service: Dispatcher, name: str, user: User, what: Literal["stop", "pause"], after: BackgroundTasks) -> Sweep:
    for _ in range(TRIES):
        old = get_own_submission(service, name, user)
        if old.state in ACTIVE:
            done = service.store.change(old, asked=what)
        elif old.state in WAITING or (old.state, what) == (SweepState.PAUSED, "stop"):
            state = SweepState.STOPPED if what == "stop" else SweepState.PAUSED
            done = service.store.change(old, state=state, reason="as requested", ended=time.time())
        else:
            raise ApiError(409, f"{name} is {old.state}: there is nothing to {what}")
        if done:
            if old.state in WAITING and old.attempt:
                after.add_task(_mark_trials, service, name, what)  # waiting for a dead driver's lease takes up to 20 s
            return sweep_body(get_submission(service, name))
    raise _keeps_changing(name)


def _mark_trials(service: Dispatcher, name: str, what: Literal["stop", "pause"]) -> None:
    """Mark the trials that a dead driver left running as stopped or paused."""
    with suppress(LedgerError):  # none has begun, or all have ended
        stop_or_pause(service.settings.storage, name, what)


def _keeps_changing(name: str) -> ApiError:
    return ApiError(409, f"{name} keeps changing; try again")


def _requeue(service: Dispatcher, old: Submission, **values: Any) -> Sweep:
    values |= {"state": SweepState.QUEUED, "reason": "", "asked": None, "not_before": 0.0, "ended": None, "deaths": 0}
    if not service.store.change(old, queued=time.time(), **values):
        raise ApiError(409, f"{old.name} has just changed; look at it and try again")
    return sweep_body(get_submission(service, old.name))


def _has_begun(service: Dispatcher, name: str) -> bool:
    return name in sweep_names(service.settings.storage.ledger_url)


def _check_priority(user: User, priority: int) -> None:
    if priority > 0 and user.role != "admin":
        raise ApiError(403, f"only an admin gives a priority above 0, not {priority}")
