"""What requests and answers look like; the OpenAPI document is made of these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssl_sweep.plan import Plan
from ssl_sweep.problems import SpecError
from ssl_sweep.service.check import MAX_CHARS, MAX_OVERRIDE_CHARS, MAX_OVERRIDES
from ssl_sweep.service.store import Submission

MAX_PRIORITY = 10
MAX_PROBLEMS = 100
EXAMPLE_SPEC = """\
name: alphas
data: {source: digits, image_size: 8}
encoder: {name: resnet18, width: 8}
method: autoencoder
evaluate: {knn: {}}
search:
  space:
    views.overlay_alpha: [0.0, 0.2]
  seeds: 2
"""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Override = Annotated[str, Field(max_length=MAX_OVERRIDE_CHARS, examples=["pretrain.epochs=2"])]
Overrides = Annotated[list[Override], Field(max_length=MAX_OVERRIDES, description="as `--set` takes them")]
Priority = Annotated[
    int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="higher goes first; above 0 only an admin sets it")
]
TrialId = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,36}$", description="a trial's id, or how it begins")]
Trials = Annotated[list[TrialId], Field(max_length=1000)]


class Body(BaseModel):
    """What a request holds: what is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class Spec(Body):
    """A spec file, as text, and what overrides it."""

    spec: Annotated[str, Field(max_length=MAX_CHARS, examples=[EXAMPLE_SPEC], description="a spec file's text, YAML")]
    overrides: Overrides = []


class Submit(Spec):
    """A sweep to be run."""

    priority: Priority = 0


class Stop(Body):
    """What to stop: named trials, or everything."""

    trials: Trials = []


class Resume(Body):
    """What to take up again: every trial that failed or was stopped, only failed ones, or named ones."""

    failed: bool = False
    trials: Trials = []


class Extend(Body):
    """More choices for a sweep that is not a grid."""

    trials: Annotated[str, Field(pattern=r"^\+?[0-9]{1,9}$", examples=["+20"], description="+20: more; 40: in all")]
    overrides: Overrides = []


class Prioritize(Body):
    """A sweep's new priority."""

    priority: Priority


class Sweep(BaseModel):
    """A submitted sweep. Times are unix seconds."""

    name: str
    owner: str
    description: str | None
    state: Literal["QUEUED", "LAUNCHING", "RUNNING", "COMPLETE", "FAILED", "STOPPED", "PAUSED"]
    reason: Annotated[str, Field(description="why it waits, or how it ended", examples=["waits for room"])]
    asked: Annotated[str | None, Field(description="stop or pause, where its driver has yet to follow")]
    priority: int
    trials_at_once: Annotated[int, Field(description="as it was last granted; 0 while it waits")]
    attempts: Annotated[int, Field(description="launches of its driver")]
    counts: Annotated[dict[str, Any], Field(description="trials by state, the objective and the best so far")]
    created: float
    launched: float | None
    ended: float | None


class Sweeps(BaseModel):
    """A page of sweeps, newest first."""

    sweeps: list[Sweep]
    next: Annotated[float | None, Field(description="`before` of the next page; null: there is none")]


class Trial(BaseModel):
    """One trial, as `ssl-sweep status --json` shows it."""

    model_config = ConfigDict(extra="ignore")

    trial_id: str
    choice: int
    knobs: dict[str, Any]
    seed: int
    confirms: Annotated[bool, Field(description="a fresh seed of a choice that the search found best")]
    state: str
    stage: str | None
    epoch: int | None
    attempts: int
    crashed: int
    lost: int
    reason: str | None
    message: str | None
    last_sign_seconds: float | None
    results: dict[str, Any] | None


class TrialPage(BaseModel):
    """Some of a sweep's trials, in the order they were proposed."""

    trials: list[Trial]
    total: Annotated[int, Field(description="how many there are of the asked state")]


class LogPart(BaseModel):
    """What a trial has written since an offset."""

    trial: str
    text: str
    offset: Annotated[int, Field(description="ask for what comes after it")]
    ended: Annotated[bool, Field(description="the trial's attempt writes no more")]


class Planned(BaseModel):
    """The size of a sweep, and whether a trial fits the cluster as it is now."""

    name: str
    choices: int
    seeds: int
    confirming: Annotated[int, Field(description="of the trials, those with fresh seeds")]
    trials: int
    pretrains: int
    pretrain_epochs: int
    evaluation_epochs: dict[str, int]
    concurrent: int
    problems: list[str]
    at_most: Annotated[bool, Field(description="counts are upper bounds: of a search, or with a pruner")]


class Cluster(BaseModel):
    """What the cluster has, and what the service has given of it."""

    trouble: Annotated[str, Field(description="why nothing goes on; empty where all is well")]
    cpus: float | None
    gpus: float | None
    cpus_given: float
    gpus_given: float
    waiting: int
    running: int


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    place: Annotated[str, Field(examples=["views.overlay_alpha"])]
    line: int | None = None
    value: Any = None
    message: str
    remedy: str = ""


class Wrong(BaseModel):
    """Why a request was refused."""

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


def planned(name: str, plan: Plan) -> Planned:
    """A plan as the API shows it."""
    numbers = {field: getattr(plan, field) for field in Planned.model_fields if hasattr(plan, field)}
    return Planned(name=name, **{**numbers, "problems": list(plan.problems)})


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
