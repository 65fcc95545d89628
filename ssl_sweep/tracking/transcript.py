"""Translates journal events into metrics, tags, files and a status. Pure functions that know no store."""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ssl_sweep.data.fingerprints import fingerprint
from ssl_sweep.trialdir.events import (
    ArtifactAdded,
    AttemptStarted,
    BestTrialChosen,
    DescriptionSet,
    Ended,
    Event,
    MetricsReported,
    StageFinished,
    TagsSet,
)
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.states import TrialState

PREFIX = "ssl_sweep."  # of this package's tags
FINGERPRINT = "data_fingerprint"
DATA = ("identities", "unkeyed")  # parts of a config that may change, as MLflow's parameters cannot
KNOB = "knob/"  # prefix of searched knobs that are logged as metrics
EXACT = "parameters"  # the tag with a trial's parameters as JSON: MLflow's own are texts, which lose their types
# status of a run in MLflow, by the end of its trial's last attempt
STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.PRUNED: "KILLED",
    TrialState.STOPPED: "KILLED",
    TrialState.PAUSED: "KILLED",
    TrialState.INTERRUPTED: "KILLED",
}


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass
class Update:
    """The change of a run by a list of events."""

    points: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)  # paths, relative to the folder of the journal
    texts: dict[str, str] = field(default_factory=dict)  # file name -> content
    status: str | None = None  # RUNNING, FINISHED, FAILED or KILLED
    end_ms: int | None = None
    best: str | None = None  # the sweep's best trial


class Transcript:
    """Turns the events of one journal, given in order in any number of lists, into updates.

    Results of a stage become metrics unless they are the last that the stage has reported: an evaluation's last epoch
    is not logged twice. Of a stage that runs again, the newest values stand: MLflow's latest value of a metric is that
    of the highest step, and there of the highest time. Events without a counterpart in MLflow are skipped.
    """

    def __init__(self, earlier: Iterable[Event] = ()) -> None:
        self._latest: dict[str, Point] = {}  # of each metric, as in MLflow
        self._newest_ms: dict[str, int] = {}  # the highest time of each metric
        self.update(earlier)

    def update(self, events: Iterable[Event]) -> Update:
        """The change by these events; later values replace earlier ones."""
        update = Update()
        for event in events:
            self._apply(event, update)
        return update

    def _apply(self, event: Event, update: Update) -> None:
        match event:
            case AttemptStarted():
                _start(event, update)
            case MetricsReported(metrics=metrics, step=step):
                self._log(metrics, step, event, update)
            case StageFinished():
                self._finish_stage(event, update)
            case ArtifactAdded(path=path):
                update.files.append(path)
            case TagsSet(tags=tags):
                update.tags |= _tags(tags)
            case DescriptionSet(text=text):
                update.tags["mlflow.note.content"] = text
            case BestTrialChosen(trial=trial):
                update.best = trial
                update.tags |= _tags({"best_trial": trial})
            case Ended():
                _end(event, update)

    def _finish_stage(self, event: StageFinished, update: Update) -> None:
        measured = {**event.results, "seconds": event.seconds}
        for name, value in measured.items():
            latest = self._latest.get(f"{event.stage}/{name}")
            if latest is None or not _same(latest.value, value):
                self._log({f"{event.stage}/{name}": value}, 0 if latest is None else latest.step, event, update)

    def _log(self, metrics: Mapping[str, float], step: int, event: Event, update: Update) -> None:
        for name, value in metrics.items():
            latest, newest_ms = self._latest.get(name), self._newest_ms.get(name, 0)
            repeats = latest is not None and step <= latest.step
            # the stage runs again, maybe where the clock is slow
            time_ms = max(_ms(event), newest_ms + 1) if repeats else _ms(event)
            point = Point(sys.intern(name), value, time_ms, step)
            update.points.append(point)
            self._newest_ms[point.name] = max(newest_ms, time_ms)
            if latest is None or step >= latest.step:
                self._latest[point.name] = point


def _same(value: float, other: float) -> bool:
    return value == other or (math.isnan(value) and math.isnan(other))


def _start(event: AttemptStarted, update: Update) -> None:
    update.status, update.end_ms = "RUNNING", None
    tags = event.model_dump(include={"attempt", "host", "git_commit", "versions"})
    update.tags |= _tags({**tags, "state": TrialState.RUNNING, "reason": "", "message": ""})
    if event.git_commit:
        update.tags["mlflow.source.git.commit"] = event.git_commit


def _end(event: Ended, update: Update) -> None:
    update.status, update.end_ms = STATUS[event.state], _ms(event)
    update.tags |= _tags({"state": event.state, "reason": event.reason or "", "message": event.message or ""})
    if event.traceback:
        update.texts["traceback.txt"] = event.traceback


def parameters(record: TrialRecord) -> dict[str, str]:
    """A trial's knobs, config and seed as flat strings: `views.overlay_alpha` -> `0.3`."""
    seed = {} if record.seed is None else {"seed": text(record.seed)}
    return {**flat(_settings(record)), **searched(record), **seed}


def exact_parameters(record: TrialRecord, max_length: int) -> str:
    """The values of `parameters` as JSON, in at most so many characters: of more, the longest are left out."""
    seed = {} if record.seed is None else {"seed": record.seed}
    values = {**_flatten(_settings(record)), **record.knobs, **seed}
    written = {path: json.dumps(value) for path, value in values.items()}
    for longest in sorted(written, key=lambda path: len(written[path]), reverse=True):
        whole = "{" + ", ".join(f"{json.dumps(path)}: {value}" for path, value in written.items()) + "}"
        if len(whole) <= max_length:
            return whole
        del written[longest]
    return "{}"


def _settings(record: TrialRecord) -> dict[str, Any]:
    return {key: value for key, value in record.config.items() if key not in DATA}


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """The values of nested sections as strings: `{"views": {"alpha": 0.3}}` -> `{"views.alpha": "0.3"}`."""
    return {path: text(value) for path, value in _flatten(config).items()}


def labels(record: TrialRecord) -> dict[str, str]:
    """Tags by which people select trials: method, encoder, data, and searched knobs as `knob.views.overlay_alpha`.

    A trial that confirms one of the best choices with a fresh seed has the tag `confirms`; one with settings that a
    resume has set, `settings` with their paths. `data_fingerprint` has the identities of its data, but not those of a
    sweep that began before data had any.
    """
    knobs = {f"knob.{path}": value for path, value in searched(record).items()}
    confirms = {"confirms": True} if record.confirms else {}
    settings = {"settings": list(record.settings)} if record.settings else {}
    found: Mapping[str, str] = record.config.get("identities", {})
    identities = {use: each for use, each in found.items() if use not in record.config["unkeyed"]}
    data = {FINGERPRINT: fingerprint(identities)} if identities else {}
    return _tags({**summary(record.config), **knobs, **confirms, **settings, **data})


def searched(record: TrialRecord) -> dict[str, str]:
    """The searched knobs of a trial as strings."""
    return {path: text(value) for path, value in record.knobs.items()}


def summary(config: Mapping[str, Any]) -> dict[str, str | None]:
    """The names of the method, the encoder and the data of a spec or a trial's config."""
    parts = {part: config.get(part) for part in ("method", "encoder")}
    names = {part: value.get("name") if isinstance(value, Mapping) else value for part, value in parts.items()}
    return {**names, "data": (config.get("data") or {}).get("source")}


def knob_numbers(record: TrialRecord) -> dict[str, float]:
    """The numeric searched knobs and the seed, as metrics `knob/views.overlay_alpha`.

    MLflow sorts parameters and tags as strings, 10 before 9, but metrics as numbers.
    """
    values = {**record.knobs, "seed": record.seed}
    numbers = {path: value for path, value in values.items() if isinstance(value, (int, float))}
    return {KNOB + path: float(value) for path, value in numbers.items() if not isinstance(value, bool)}


def run_name(knobs: Mapping[str, Any], seed: int | None) -> str:
    """The name of a trial's run: `overlay_alpha=0.3 seed=0`."""
    knobs = {path: value for path, value in knobs.items() if path != "seed"}
    short = [path.rpartition(".")[2] for path in knobs]
    parts = [
        f"{name if short.count(name) == 1 else path}={text(value)}"
        for (path, value), name in zip(knobs.items(), short, strict=True)
    ]
    return " ".join([*parts, f"seed={seed}"])[:250]


def text(value: Any) -> str:
    """A value as YAML writes it: true, null, 0.3, resnet18; lists as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    written = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple, dict)) else str(value)
    return written.encode("utf-8", "replace").decode()  # no store takes what is left of a path that is not UTF-8


def value_of(written: str) -> bool | int | float | None:
    """The number, bool or None that `text` has written. Raises ValueError for any other string."""
    constants = {"true": True, "false": False, "null": None}
    if written in constants:
        return constants[written]
    try:
        return int(written)
    except ValueError:
        return float(written)


def _flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _tags(values: Mapping[str, Any]) -> dict[str, str]:
    return {PREFIX + name: text(value) for name, value in values.items() if value is not None}


def _ms(event: Event) -> int:
    return int(event.time * 1000)
