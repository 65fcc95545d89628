"""What requests and answers look like; the OpenAPI document is made of these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.service import examples
from ssl_sweep.service.check import MAX_CHARS, MAX_OVERRIDE_CHARS, MAX_OVERRIDES
from ssl_sweep.service.store import Submission
from ssl_sweep.spec.plan import Plan

MAX_PRIORITY = 10
MAX_PROBLEMS = 100
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Override = Annotated[str, Field(max_length=MAX_OVERRIDE_CHARS, examples=[examples.OVERRIDE])]
Overrides = Annotated[list[Override], Field(max_length=MAX_OVERRIDES, description="as `--set` takes them")]
Priority = Annotated[
    int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="higher goes first; above 0 only an admin sets it")
]
TrialId = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,36}$", description="a trial's id, or how it begins")]
Trials = Annotated[list[TrialId], Field(max_length=1000)]


def _like(example: dict[str, Any], *, strict: bool = False) -> ConfigDict:
    """A model's settings; `strict`: what is not known is refused."""
    return ConfigDict(extra="forbid" if strict else "ignore", json_schema_extra={"examples": [example]})


class Spec(BaseModel):
    """A spec file, as text, and what overrides it."""

    model_config = _like(examples.SPEC, strict=True)

    spec: Annotated[str, Field(max_length=MAX_CHARS, description="a spec file's text, YAML")]
    overrides: Overrides = []


class Submit(Spec):
    """A sweep to be run."""

    model_config = _like(examples.SUBMIT, strict=True)

    priority: Priority = 0


class Stop(BaseModel):
    """What to stop: named trials, or everything."""

    model_config = _like(examples.STOP, strict=True)

    trials: Trials = []


class Resume(BaseModel):
    """What to take up again: every trial that failed or was stopped, only failed ones, or named ones."""

    model_config = _like(examples.RESUME, strict=True)

    failed: bool = False
    trials: Trials = []


class Extend(BaseModel):
    """More choices for a sweep that is not a grid."""

    model_config = _like(examples.EXTEND, strict=True)

    trials: Annotated[str, Field(pattern=r"^\+?[0-9]{1,9}$", examples=["+20"], description="+20: more; 40: in all")]
    overrides: Overrides = []


class Prioritize(BaseModel):
    """A sweep's new priority."""

    model_config = _like(examples.PRIORITIZE, strict=True)

    priority: Priority


class Sweep(BaseModel):
    """A submitted sweep. Times are unix seconds."""

    model_config = _like(examples.SWEEP)

    name: str
    owner: str
    description: str | None = None
    state: Literal["QUEUED", "LAUNCHING", "RUNNING", "COMPLETE", "FAILED", "STOPPED", "PAUSED"]
    reason: Annotated[str, Field(description="why it waits, or how it ended", examples=["waits for resources"])]
    asked: Annotated[str | None, Field(description="stop or pause, where its driver has yet to follow")] = None
    priority: int
    trials_at_once: Annotated[int, Field(description="as it was last granted; 0 while it waits")]
    attempts: Annotated[int, Field(description="launches of its driver")]
    counts: Annotated[dict[str, Any], Field(description="trials by state, the objective and the best so far")]
    created: float
    launched: float | None = None
    ended: float | None = None


class Sweeps(BaseModel):
    """A page of sweeps, newest first."""

    model_config = _like({"sweeps": [examples.SWEEP], "next": None})

    sweeps: list[Sweep]
    next: Annotated[float | None, Field(description="`before` of the next page; null: there is none")] = None


class Trial(BaseModel):
    """One trial, as `ssl-sweep status --json` shows it."""

    model_config = _like(examples.TRIAL)

    trial_id: str
    choice: int
    knobs: dict[str, Any]
    seed: int
    confirms: Annotated[bool, Field(description="a fresh seed of a choice that the search found best")]
    state: str
    stage: str | None = None
    epoch: int | None = None
    attempts: int
    crashed: int
    lost: int
    reason: str | None = None
    message: str | None = None
    last_sign_seconds: float | None = None
    results: dict[str, Any] | None = None


class TrialPage(BaseModel):
    """Some of a sweep's trials, in the order they were proposed."""

    model_config = _like({"trials": [examples.TRIAL], "total": 4})

    trials: list[Trial]
    total: Annotated[int, Field(description="how many there are of the asked state")]


class LogPart(BaseModel):
    """What a trial has written since an offset."""

    model_config = _like(examples.LOG_PART)

    trial: str
    text: str
    offset: Annotated[int, Field(description="ask for what comes after it")]
    ended: Annotated[bool, Field(description="the trial's attempt writes no more")]


class Planned(BaseModel):
    """The size of a sweep, and whether a trial fits the cluster as it is now."""

    model_config = _like(examples.PLANNED)

    name: str
    choices: int
    seeds: int
    confirming: Annotated[int, Field(description="of the trials, those with fresh seeds")]
    trials: int
    pretrains: int
    pretrain_epochs: int
    evaluation_epochs: dict[str, int]
    concurrent: Annotated[int | None, Field(description="trials at a time; null: no cluster answers")]
    problems: list[str]
    at_most: Annotated[bool, Field(description="counts are upper bounds: of a search, or with a pruner")]


class Cluster(BaseModel):
    """What the cluster has, and what the service has given of it."""

    model_config = _like(examples.CLUSTER)

    trouble: Annotated[str, Field(description="why nothing goes on; empty where all is well")]
    cpus: float | None = None
    gpus: float | None = None
    cpus_given: float
    gpus_given: float
    waiting: int
    running: int


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    model_config = _like(examples.PROBLEM)

    place: Annotated[str, Field(examples=["views.overlay_alpha"])]
    line: int | None = None
    value: Any = None
    message: str
    remedy: str = ""


class Wrong(BaseModel):
    """Why a request was refused."""

    model_config = _like({"message": "the spec has 1 problems", "problems": [examples.PROBLEM]})

    message: str
    problems: list[Problem] = []


def shown(each: Submission) -> Sweep:
    """A submission as the API shows it."""
    return Sweep(
        name=each.name, owner=each.owner, description=each.spec.get("description"), state=each.state,
        reason=each.reason, asked=each.asked, priority=each.priority, trials_at_once=each.granted,
        attempts=each.attempt, counts=dict(each.counts), created=each.created, launched=each.launched,
        ended=each.ended,
    )  # fmt: skip


def planned(name: str, plan: Plan, *, fitted: bool) -> Planned:
    """A plan as the API shows it; `fitted`: to the cluster, not to the machine of a service that knows none."""
    numbers = {field: getattr(plan, field) for field in Planned.model_fields if hasattr(plan, field)}
    fit = {"concurrent": plan.concurrent, "problems": list(plan.problems)}
    return Planned(name=name, **{**numbers, **(fit if fitted else {"concurrent": None, "problems": []})})


def wrong(error: SpecError) -> Wrong:
    """All that is wrong with a spec; of very much the first hundred."""
    found = [
        Problem(place=each.key, line=each.line, value=_plain(each.value), message=each.message, remedy=each.remedy)
        for each in error.problems[:MAX_PROBLEMS]
    ]
    return Wrong(message=f"the spec has {len(error.problems)} problems", problems=found)


def _plain(value: Any) -> Any:
    """A value that is wrong, cut short where it is long."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:200]


def refusals(*more: int) -> dict[int | str, dict[str, Any]]:
    """How an operation may refuse, for the OpenAPI document: as all do, and with these statuses."""
    return {status: _refusal(status) for status in sorted({401, 403, 413, 429, 503, *more})}


def _refusal(status: int) -> dict[str, Any]:
    meaning, message = examples.REFUSALS[status]
    content: dict[str, Any] = {"example": {"message": message, "problems": []}}
    if status == 422:
        content["example"]["problems"] = [examples.PROBLEM]
    return {"model": Wrong, "description": meaning, "content": {"application/json": content}}
