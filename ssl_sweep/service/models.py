"""Bodies of requests and responses, from which the OpenAPI document is generated."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.service import examples
from ssl_sweep.service.spec_check import MAX_CHARS, MAX_OVERRIDE_CHARS, MAX_OVERRIDES
from ssl_sweep.service.states import SweepState
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
TrialId = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,36}$", description="a trial's id, or a prefix of it")]
Trials = Annotated[list[TrialId], Field(max_length=1000)]
DataChanged = Annotated[
    Literal["keep", "restart"] | None,
    Field(
        description="go on although the data is not what the sweep began with; keep: finished trials keep their "
        "results; restart: they run again"
    ),
]


def _config(example: dict[str, Any], *, strict: bool = False) -> ConfigDict:
    """A model's configuration; `strict` refuses unknown keys."""
    return ConfigDict(extra="forbid" if strict else "ignore", json_schema_extra={"examples": [example]})


class Spec(BaseModel):
    """The text of a spec file, and overrides."""

    model_config = _config(examples.SPEC, strict=True)

    spec: Annotated[str, Field(max_length=MAX_CHARS, description="a spec file's text, YAML")]
    overrides: Overrides = []


class Submit(Spec):
    """A sweep to run."""

    model_config = _config(examples.SUBMIT, strict=True)

    priority: Priority = 0


class Stop(BaseModel):
    """Trials to stop; none: the whole sweep."""

    model_config = _config(examples.STOP, strict=True)

    trials: Trials = []


class Resume(BaseModel):
    """Trials to resume: the named ones, only failed ones, or every trial that failed or was stopped."""

    model_config = _config(examples.RESUME, strict=True)

    failed: bool = False
    trials: Trials = []
    data_changed: DataChanged = None


class Extend(BaseModel):
    """More choices for a sweep that is not a grid."""

    model_config = _config(examples.EXTEND, strict=True)

    trials: Annotated[str, Field(pattern=r"^\+?[0-9]{1,9}$", examples=["+20"], description="+20: more; 40: in all")]
    overrides: Overrides = []
    data_changed: DataChanged = None


class Prioritize(BaseModel):
    """A new priority of a sweep."""

    model_config = _config(examples.PRIORITIZE, strict=True)

    priority: Priority


class Sweep(BaseModel):
    """A submitted sweep. Times are unix seconds."""

    model_config = _config(examples.SWEEP)

    name: str
    owner: str
    description: str | None = None
    state: SweepState
    reason: Annotated[str, Field(description="why it waits, or why it ended", examples=["waits for resources"])]
    asked: Annotated[str | None, Field(description="stop or pause, until its driver has followed")] = None
    priority: int
    trials_at_once: Annotated[int, Field(description="trials at a time in its last launch; 0 while it waits")]
    attempts: Annotated[int, Field(description="times that its driver was launched")]
    counts: Annotated[dict[str, Any], Field(description="trials by state, the objective and the best so far")]
    created: float
    launched: float | None = None
    ended: float | None = None


class Sweeps(BaseModel):
    """A page of sweeps, newest first."""

    model_config = _config({"sweeps": [examples.SWEEP], "next": None})

    sweeps: list[Sweep]
    next: Annotated[float | None, Field(description="`before` of the next page; null on the last one")] = None


class Trial(BaseModel):
    """One trial, as `ssl-sweep status --json` shows it."""

    model_config = _config(examples.TRIAL)

    trial_id: str
    choice: int
    knobs: dict[str, Any]
    seed: int
    confirms: Annotated[bool, Field(description="runs a fresh seed of one of the best choices")]
    state: str
    stage: str | None = None
    epoch: int | None = None
    attempts: int
    crashed: int
    lost: int
    reason: str | None = None
    message: str | None = None
    damage: Annotated[str | None, Field(description="the damaged file of its folder, and the remedy")] = None
    collapsed: Annotated[bool, Field(description="all images have nearly the same features")] = False
    last_sign_seconds: float | None = None
    waits: Annotated[str | None, Field(description="whom it waits for, or that its process is stopped")] = None
    results: dict[str, Any] | None = None


class TrialPage(BaseModel):
    """A page of a sweep's trials, in the order of their proposal."""

    model_config = _config({"trials": [examples.TRIAL], "total": 4})

    trials: list[Trial]
    total: Annotated[int, Field(description="trials in the requested state")]


class LogPart(BaseModel):
    """What a trial has logged since an offset."""

    model_config = _config(examples.LOG_PART)

    trial: str
    text: str
    offset: Annotated[int, Field(description="`offset` of the next request")]
    ended: Annotated[bool, Field(description="the trial's attempt has ended")]


class Planned(BaseModel):
    """The size of a sweep, and whether its trials fit the cluster now."""

    model_config = _config(examples.PLANNED)

    name: str
    choices: int
    seeds: int
    confirming: Annotated[int, Field(description="trials with fresh seeds, which confirm the best choices")]
    trials: int
    pretrains: int
    pretrain_epochs: Annotated[int, Field(description="of the pretrainings whose length is given in epochs")]
    pretrain_steps: Annotated[int, Field(description="of those whose length is given in steps")]
    evaluation_epochs: dict[str, int]
    concurrent: Annotated[int | None, Field(description="trials at a time; null: no cluster answers")]
    views: Annotated[
        dict[str, dict[str, Any]],
        Field(description="views by the methods or cases that have them: the values that differ from recipe none"),
    ]
    warnings: Annotated[list[str], Field(description="what works, but is hardly meant")]
    problems: list[str]
    at_most: Annotated[bool, Field(description="counts are upper bounds, since the sweep searches or prunes")]


class Cluster(BaseModel):
    """Resources of the cluster, and the part that running sweeps hold."""

    model_config = _config(examples.CLUSTER)

    trouble: Annotated[str, Field(description="why no sweep is launched; empty if all is well")]
    cpus: float | None = None
    gpus: float | None = None
    cpus_given: float
    gpus_given: float
    waiting: int
    running: int


class Problem(BaseModel):
    """One error in a request."""

    model_config = _config(examples.PROBLEM)

    place: Annotated[str, Field(examples=["views.overlay_alpha"])]
    line: int | None = None
    value: Any = None
    message: str
    remedy: str = ""


class ErrorBody(BaseModel):
    """Why a request was refused."""

    model_config = _config({"message": "the spec has 1 problems", "problems": [examples.PROBLEM]})

    message: str
    problems: list[Problem] = []


def sweep_body(each: Submission) -> Sweep:
    """A submission as a response body."""
    return Sweep(
        name=each.name, owner=each.owner, description=each.spec.get("description"), state=each.state,
        reason=each.reason, asked=each.asked, priority=each.priority, trials_at_once=each.granted,
        attempts=each.attempt, counts=dict(each.counts), created=each.created, launched=each.launched,
        ended=each.ended,
    )  # fmt: skip


def plan_body(name: str, plan: Plan, *, fitted: bool) -> Planned:
    """A plan as a response body; without `fitted` it was made for no cluster, and says nothing of fit."""
    numbers = {field: getattr(plan, field) for field in Planned.model_fields if hasattr(plan, field)}
    fit = {"concurrent": plan.concurrent, "problems": list(plan.problems)}
    return Planned(name=name, **{**numbers, **(fit if fitted else {"concurrent": None, "problems": []})})


def spec_errors(error: SpecError) -> ErrorBody:
    """The problems of a spec, the first hundred of them."""
    problems = [
        Problem(place=each.key, line=each.line, value=_plain(each.value), message=each.message, remedy=each.remedy)
        for each in error.problems[:MAX_PROBLEMS]
    ]
    return ErrorBody(message=f"the spec has {len(error.problems)} problems", problems=problems)


def _plain(value: Any) -> Any:
    """A rejected value, cut short if it is long."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:200]


def error_responses(*more: int) -> dict[int | str, dict[str, Any]]:
    """Error responses of an operation for the OpenAPI document: the common ones, and these statuses."""
    return {status: _error_example(status) for status in sorted({401, 403, 413, 429, 503, *more})}


def _error_example(status: int) -> dict[str, Any]:
    meaning, message = examples.REFUSALS[status]
    content: dict[str, Any] = {"example": {"message": message, "problems": []}}
    if status == 422:
        content["example"]["problems"] = [examples.PROBLEM]
    return {"model": ErrorBody, "description": meaning, "content": {"application/json": content}}
