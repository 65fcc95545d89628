"""The endpoints that change something: submit, steer and delete sweeps."""

import time
import uuid
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Response

from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.open import load_ledger, sweep_names
from ssl_sweep.ledger.orders import clear_orders
from ssl_sweep.service.access import User
from ssl_sweep.service.check import check, submitted
from ssl_sweep.service.endpoint import Name, Service, Viewer, found, heavy
from ssl_sweep.service.guard import Rate, Refused
from ssl_sweep.service.loop import Loop
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
    planned,
    refusals,
    shown,
)
from ssl_sweep.service.store import ACTIVE, ENDED, WAITING, Submission
from ssl_sweep.spec.plan import Plan, make_plan
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.sweep.extension import extend_spec
from ssl_sweep.sweep.steering import place_order, stop_or_pause
from ssl_sweep.trialdir.requests import Ask

STEERED = refusals(400, 404, 409, 422)
SUBMITTED: dict[int | str, dict[str, Any]] = {200: {"model": Sweep, "description": "submitted before, with this key"}}
TRIES = 5  # of a change that the loop may come in between of
router = APIRouter(prefix="/api/v1")
checks = Rate(per_second=0.5, burst=30)  # a user's specs: to check one takes seconds


def submitter(user: Viewer) -> User:
    """Somebody who may change something."""
    if user.role == "viewer":
        raise Refused(403, f"{user.name} may only look; an admin makes a token with --role submitter")
    return user


Submitter = Annotated[User, Depends(submitter)]


@router.post("/plan", responses=refusals(400, 422))
async def plan(asked: Spec, user: Submitter, service: Service) -> Planned:
    """Say what a sweep would cost, and whether its trials fit the cluster; runs nothing."""
    spec, size = await heavy(_checked, service, user, asked)
    return planned(spec.name, size, fitted=service.capacity is not None)


@router.post("/sweeps", status_code=201, responses=SUBMITTED | refusals(400, 409, 422))
async def submit(
    asked: Submit,
    user: Submitter,
    service: Service,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[!-~]{1,200}$",
            description="a retried request with the same key makes no second sweep",
            examples=["3f0c9b6e"],
        ),
    ] = None,
) -> Sweep:
    """Put a sweep into the queue."""
    _check_priority(user, asked.priority)
    new = await heavy(_new, service, user, asked, idempotency_key)
    known = await heavy(service.store.find, owner=user.name, client_key=idempotency_key) if idempotency_key else []
    earlier = known[0] if known else None
    if earlier is None:
        if await heavy(_has_begun, service, new.name):
            raise Refused(409, f"there are results of a sweep named {new.name!r}; give the new one another name")
        earlier = await heavy(service.store.add, new)
    if earlier.id != new.id:
        if earlier.spec != new.spec:
            raise Refused(409, f"the key was used for another spec, of {earlier.name!r}; give each sweep its own key")
        response.status_code = 200
    return shown(earlier)


@router.post("/sweeps/{name}/stop", responses=STEERED)
def stop(name: Name, asked: Stop, user: Submitter, service: Service, after: BackgroundTasks) -> Sweep:
    """Stop a sweep, or trials of it: at its next report a trial leaves a checkpoint and ends."""
    if not asked.trials:
        return _end(service, name, user, "stop", after)
    submission = own(service, name, user)
    if submission.state not in ACTIVE:
        raise Refused(409, f"{name} does not run: it is {submission.state}")
    ledger = load_ledger(service.settings.storage.ledger_url, name)
    place_order(ledger, Ask("stop", f"ssl-sweep stop by {user.name}"), asked.trials)
    return shown(found(service, name))


@router.post("/sweeps/{name}/pause", responses=refusals(404, 409, 422))
def pause(name: Name, user: Submitter, service: Service, after: BackgroundTasks) -> Sweep:
    """Pause a sweep, to go on with it later: as a stop."""
    return _end(service, name, user, "pause", after)


@router.post("/sweeps/{name}/resume", responses=STEERED)
def resume(name: Name, asked: Resume, user: Submitter, service: Service) -> Sweep:
    """Put a sweep into the queue again that has ended, was paused or stopped."""
    old = own(service, name, user)
    if old.state not in ENDED:
        raise Refused(409, f"{name} is {old.state}" + (f" and asked to {old.asked}" if old.asked else ""))
    if old.state == "COMPLETE":
        raise Refused(409, f"{name} is complete: there is nothing to resume of it")
    words = (*(["--failed"] if asked.failed else []), *(f"--trial={each}" for each in asked.trials))
    begun = _has_begun(service, name)
    if asked.trials and not begun:
        raise Refused(409, f"{name} has not begun: it has no trials to choose from; resume all of it")
    command = ("resume", *words) if begun else ("run",)
    return _queued(service, old, command=command)


@router.post("/sweeps/{name}/extend", responses=STEERED)
async def extend(name: Name, asked: Extend, user: Submitter, service: Service) -> Sweep:
    """Run more choices of a sweep that has ended; overrides may widen its ranges."""
    old = own(service, name, user)
    if old.state not in ENDED:
        raise Refused(409, f"{name} is {old.state}; pause it before it is extended")
    spec = await heavy(_extension, service, old, asked)
    words = (f"--choices={spec.search.trials}", *(f"--set={each}" for each in asked.overrides))
    wants = _wants(spec, spec.search.trials or 1)
    return _queued(service, old, command=("extend", *words), spec=spec.model_dump(mode="json"), **wants)


@router.put("/sweeps/{name}/priority", responses=STEERED)
def prioritize(name: Name, asked: Prioritize, user: Submitter, service: Service) -> Sweep:
    """Change a sweep's priority, which counts while it waits."""
    _check_priority(user, asked.priority)
    for _ in range(TRIES):
        if service.store.change(own(service, name, user), priority=asked.priority):
            return shown(found(service, name))
    raise _restless(name)


@router.delete("/sweeps/{name}", status_code=204, responses=refusals(404, 409, 422))
def delete(name: Name, user: Submitter, service: Service) -> None:
    """Take a sweep that does not run out of the service; its results stay in storage and in MLflow."""
    old = own(service, name, user)
    if old.state in ACTIVE or not service.store.remove(old):
        raise Refused(409, f"{name} is {old.state}; stop it first")


@router.get("/cluster")
def cluster(_: Viewer, service: Service) -> Cluster:
    """What the cluster has, and what the service has given of it."""
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


def own(service: Loop, name: str, user: User) -> Submission:
    """A sweep that this user may change."""
    submission = found(service, name)
    if not may_change(user, submission):
        raise Refused(403, f"{name} is {submission.owner}'s: only they and admins may change it")
    return submission


def _checked(service: Loop, user: User, asked: Spec) -> tuple[SweepSpec, Plan]:
    if wait := checks.wait(user.name):
        raise Refused(429, f"{user.name} sends too many specs", wait)
    spec = submitted(asked.spec, asked.overrides, service.settings.data_roots)
    capacity = service.capacity
    return spec, make_plan(spec, [{"CPU": capacity.cpus, "GPU": capacity.gpus}] if capacity else None)


def _new(service: Loop, user: User, asked: Submit, key: str | None) -> Submission:
    spec, size = _checked(service, user, asked)
    now = time.time()
    return Submission(
        id=uuid.uuid4().hex,
        name=spec.name,
        owner=user.name,
        spec=spec.model_dump(mode="json"),
        created=now,
        queued=now,
        client_key=key,
        priority=asked.priority,
        counts={
            "name": spec.name,
            "phase": "searching",
            "total": size.trials,
            **dict.fromkeys(("complete", "running", "failed", "stopped", "paused", "pruned"), 0),
            "waiting": size.trials,
            "objective": spec.search.objective,
            "best": None,
        },
        **_wants(spec, size.trials),
    )


def _wants(spec: SweepSpec, trials: int) -> dict[str, Any]:
    """What it asks the queue for."""
    resources = spec.resources
    slots = min(trials, resources.max_concurrent or trials)
    return {"slots": slots, "cpus": resources.workers * resources.cpus, "gpus": resources.workers * resources.gpus}


def _extension(service: Loop, old: Submission, asked: Extend) -> SweepSpec:
    """The sweep with more choices than its ledger has; who extends a stopped sweep wants it to go on."""
    if not _has_begun(service, old.name):
        raise Refused(409, f"{old.name} has not begun; resume it first, or delete it and submit a longer one")
    ledger = load_ledger(service.settings.storage.ledger_url, old.name)
    # the submission may hold an extension that no driver has made; the ledger's resources are those last granted
    base = from_dump(old.spec).model_copy(update={"search": ledger.spec.search})
    spec = extend_spec(base, asked.trials, asked.overrides)
    check(spec, service.settings.data_roots)
    clear_orders(ledger.notes)
    return spec


def _end(service: Loop, name: str, user: User, what: Literal["stop", "pause"], after: BackgroundTasks) -> Sweep:
    for _ in range(TRIES):
        old = own(service, name, user)
        if old.state in ACTIVE:
            done = service.store.change(old, asked=what)
        elif old.state in WAITING or (old.state, what) == ("PAUSED", "stop"):
            state = "STOPPED" if what == "stop" else "PAUSED"
            done = service.store.change(old, state=state, reason="as it was asked", ended=time.time())
        else:
            raise Refused(409, f"{name} is {old.state}: there is nothing to {what}")
        if done:
            if old.state in WAITING and old.attempt:
                after.add_task(_mark, service, name, what)  # a dead driver's lease may be watched for 20 s
            return shown(found(service, name))
    raise _restless(name)


def _mark(service: Loop, name: str, what: Literal["stop", "pause"]) -> None:
    """Mark the trials that a dead driver left running."""
    with suppress(LedgerError):  # none has begun, or all have ended
        stop_or_pause(service.settings.storage, name, what)


def _restless(name: str) -> Refused:
    return Refused(409, f"{name} changes all the time; try again")


def _queued(service: Loop, old: Submission, **values: Any) -> Sweep:
    values |= {"state": "QUEUED", "reason": "", "asked": None, "not_before": 0.0, "ended": None, "deaths": 0}
    if not service.store.change(old, queued=time.time(), **values):
        raise Refused(409, f"{old.name} has just changed; look at it, and try again")
    return shown(found(service, old.name))


def _has_begun(service: Loop, name: str) -> bool:
    return name in sweep_names(service.settings.storage.ledger_url)


def _check_priority(user: User, priority: int) -> None:
    if priority > 0 and user.role != "admin":
        raise Refused(403, f"only an admin gives a priority above 0, not {priority}")
