"""The events of journals, one class each; `journal.py` reads and writes them as lines of JSON.

They are pydantic models because a model knows which fields it was given: a line has exactly these keys. A line without
a required field is rejected with its place in the file. An optional field is None if the line lacks it.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from ssl_sweep.trialdir.states import TrialState


def _number(value: Any) -> Any:
    """JSON has no nan and no infinities; a journal holds them as text."""
    return float(value) if value in ("nan", "inf", "-inf") else value


Numbers = dict[str, Annotated[float, PlainValidator(_number)]]


class Event(BaseModel):
    """An event at `time`, in Unix seconds. One of no subclass was written by a later version: ignore it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: ClassVar[str] = "unknown"  # its name in the file
    time: float = Field(default_factory=time.time)

    def fields(self) -> dict[str, Any]:
        """The fields that were given, without the time."""
        given = self.model_fields_set - {"time"}
        return {field: value for field, value in self if field in given}


class AttemptStarted(Event):
    """An attempt at a trial started; in a sweep's journal, where `attempt` is None, a driver."""

    name = "attempt"
    attempt: int | None = None
    host: str | None = None
    pid: int | None = None
    git_commit: str | None = None
    versions: dict[str, str | None] | None = None


class MetricsReported(Event):
    """A stage of a trial reported the metrics of an epoch."""

    name = "report"
    metrics: Numbers
    step: int

    @property
    def stage(self) -> str:
        """The stage that reported: the common prefix of the metrics' names."""
        return next(iter(self.metrics), "").rpartition("/")[0]


class StageStarted(Event):
    """A trial started a stage under a key, and not from where an earlier attempt stood. Later reports replace earlier.

    Journals of earlier versions have none.
    """

    name = "begin"
    stage: str
    key: str


class StageFinished(Event):
    """A trial finished a stage. The names in `results` have no prefix."""

    name = "stage"
    stage: str
    key: str | None = None
    seconds: float
    results: Numbers


class ArtifactAdded(Event):
    """A file was written; `path` is relative to the journal's folder."""

    name = "artifact"
    path: str


class TagsSet(Event):
    """Tags got these values."""

    name = "tags"
    tags: dict[str, Any]


class DescriptionSet(Event):
    """The sweep's description in MLflow is this Markdown."""

    name = "note"
    text: str


class BestTrialChosen(Event):
    """The sweep chose this trial as its best."""

    name = "best"
    trial: str


class Ended(Event):
    """An attempt ended; in a sweep's journal, the sweep."""

    name = "end"
    state: TrialState
    reason: str | None = None
    message: str | None = None
    traceback: str | None = None


class Superseded(Event):
    """The ledger, restored from another state, does not have this trial. Any later event takes this back."""

    name = "superseded"


class FailedAlike(Event):
    """A trial failed because the shared pretraining failed, which the trial `maker` ran."""

    name = "failed_alike"
    maker: str
    failed_at: float


class PretrainingStarted(Event):
    """A trial started or continued a shared pretraining. The first journals name neither its host nor its process."""

    name = "attempt"
    trial: str
    host: str | None = None
    pid: int | None = None


class PretrainingFinished(Event):
    """A trial finished a shared pretraining."""

    name = "stage"
    trial: str
    results: Numbers


class PretrainingFailed(Event):
    """A shared pretraining failed, and would fail again in every trial that shares it; `kind` is the error's class."""

    name = "failed"
    trial: str
    kind: str
    message: str


TYPES = {
    kind.name: kind
    for kind in (
        AttemptStarted, MetricsReported, StageStarted, StageFinished, ArtifactAdded, TagsSet, DescriptionSet,
        BestTrialChosen, Ended, Superseded, FailedAlike, PretrainingFailed,
    )
}  # fmt: skip


def event_type(line: Mapping[str, Any]) -> type[Event]:
    """The class of a journal's line. Two names differ in meaning between a trial's and a pretraining's journal."""
    if line["event"] == "attempt" and "trial" in line:
        return PretrainingStarted
    if line["event"] == "stage" and "stage" not in line:
        return PretrainingFinished
    return TYPES.get(str(line["event"]), Event)
