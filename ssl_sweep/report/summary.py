"""What the page says in words and small tables: counts, the best choice, failures, cost, what to type next."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ssl_sweep.report.figures import figure, shortened
from ssl_sweep.report.sweep import Sweep, trial_label
from ssl_sweep.tables.labels import MARKS, display_name, duration, in_percent
from ssl_sweep.tracking.reader import artifact
from ssl_sweep.trialdir.states import TrialState

MAX_FAILURES = 10  # kinds of failure
MAX_TRIALS = 3  # of a failure
MAX_MESSAGE = 600  # characters
MAX_USED = 4  # methods, encoders or data sources that are named


@dataclass(frozen=True)
class State:
    """How many trials are in a state, with a mark that is told from others without colour."""

    name: str
    mark: str
    count: int


@dataclass(frozen=True)
class Best:
    """The best choice's knobs and its objective, in words."""

    knobs: str
    figure: str


@dataclass(frozen=True)
class Failure:
    """Trials that failed alike."""

    reason: str
    message: str
    count: int
    trials: tuple[tuple[str, str], ...]  # some of them: choice and seed, and how to read the log
    traceback: str | None


@dataclass(frozen=True)
class StageCost:
    """What a stage took: trials that finished it, mean seconds, hours together, its share of all hours."""

    name: str
    trials: int
    mean_seconds: float
    hours: float
    share: float


@dataclass(frozen=True)
class NextStep:
    """A command, and what it is for."""

    command: str
    purpose: str


def states(sweep: Sweep) -> list[State]:
    """The states that trials are in, and how many have not begun."""
    found = [State(name.lower(), mark, sweep.states[name]) for name, mark in MARKS.items() if sweep.states[name]]
    waiting = (sweep.planned or 0) - len(sweep.runs)
    return [*found, *([State("not begun", "○", waiting)] if waiting > 0 else [])]


def facts(sweep: Sweep) -> dict[str, str]:
    """What stands at the top of the page, by its name."""
    spec, search = sweep.spec, sweep.spec.get("search") or {}
    resources = spec.get("resources") or {}
    said = {
        "objective": ", ".join(map(str, sweep.objectives)),
        "sampler": str(search.get("sampler") or ""),
        "data": _used(sweep, "data.source", str((spec.get("data") or {}).get("source") or "")),
        "method": _used(sweep, "method.name", _name(spec.get("method"))),
        "encoder": _used(sweep, "encoder.name", _name(spec.get("encoder"))),
        "when": _when(sweep),
        "cost": _cost(sweep, resources),
        "commit": ", ".join(map(_short, sweep.commits[:3])) + (" and others" if len(sweep.commits) > 3 else ""),
    }
    return {name: text for name, text in said.items() if text}


def best(sweep: Sweep) -> Best | None:
    """The best choice; None as long as no trial has an objective."""
    first = next((choice for choice in sweep.choices if choice.objective is not None), None)
    if first is None:
        return None
    seeds = f", mean of {first.num_seeds} seeds" if first.num_seeds > 1 else ""
    unit = "\u202f%" if in_percent(sweep.metric) else ""
    if first.confirmed is not None:
        searched = f"{figure(first.objective)}{unit}{seeds}, in the search"
        said = f"{display_name(sweep.metric)} {figure(first.confirmed)}{unit}, mean of {first.num_fresh} fresh seeds"
        return Best(first.label, f"{said} ({searched})")
    return Best(first.label, f"{display_name(sweep.metric)} {figure(first.objective)}{unit}{seeds}")


def next_step(sweep: Sweep) -> NextStep:
    """What the reader will want to type."""
    name = shlex.quote(sweep.name)
    if sweep.states[TrialState.RUNNING]:
        return NextStep(f"ssl-sweep status {name} --watch", "it is running: watch it")
    complete = sweep.states[TrialState.COMPLETE]
    if complete < (sweep.planned or len(sweep.runs)) - sweep.states[TrialState.PRUNED] or not complete:
        return NextStep(f"ssl-sweep resume {name}", "go on with the trials that are not complete")
    return NextStep(f"ssl-sweep table {name} --format tex", "the table for the paper")


def failures(sweep: Sweep, tracking_uri: str) -> list[Failure]:
    """Failed trials by reason and message, the most frequent first, each with the traceback of its first trial."""
    failed = sweep.runs[sweep.runs["state"] == TrialState.FAILED].fillna({"reason": "", "message": ""})
    alike = list(failed.groupby(["reason", "message"], sort=False))
    listed = sorted(alike, key=lambda kind: -len(kind[1]))[:MAX_FAILURES]
    return [
        Failure(
            reason=str(reason) or "unknown",
            message=shortened(str(message), MAX_MESSAGE),
            count=len(trials),
            trials=tuple(
                (trial_label(sweep, trial), _log(sweep, trial)) for _, trial in trials[:MAX_TRIALS].iterrows()
            ),
            traceback=_text(artifact(sweep.name, trials["trial_id"].iloc[0], "traceback.txt", tracking_uri)),
        )
        for (reason, message), trials in listed
    ]


def kinds_left_out(sweep: Sweep, shown: int) -> int:
    """How many kinds of failure are not listed."""
    failed = sweep.runs[sweep.runs["state"] == TrialState.FAILED]
    return len(set(zip(failed["reason"], failed["message"], strict=True))) - shown


def collapsed(sweep: Sweep) -> list[str]:
    """The trials tagged so, by their choice and seed."""
    found = sweep.runs[sweep.runs["trial_id"].isin(sweep.collapsed)]
    return [trial_label(sweep, trial) for _, trial in found.iterrows()]


def costs(sweep: Sweep) -> list[StageCost]:
    """The cost of each stage, pretraining first, then as the spec has the evaluations."""
    names = ["pretrain", *(sweep.spec.get("evaluate") or {})]
    seconds = {name: sweep.runs[f"{name}/seconds"].dropna() for name in names if f"{name}/seconds" in sweep.runs}
    total = sum(float(each.sum()) for each in seconds.values())
    return [
        StageCost(name, len(each), float(each.mean()), float(each.sum()) / 3600, float(each.sum()) / (total or 1.0))
        for name, each in seconds.items()
        if len(each)
    ]


def _log(sweep: Sweep, trial: pd.Series) -> str:
    """How to read a trial's log where the sweep's storage folder is."""
    path = f"{sweep.name}/trials/{trial['trial_id']}/log.txt"
    return f'less "${{SSL_SWEEP_STORAGE:-runs}}"/{shlex.quote(path)}'


def _when(sweep: Sweep) -> str:
    begun = f"{sweep.started:%Y-%m-%d %H:%M}\u00a0UTC"
    ended = sweep.runs["end"].max()
    if pd.isna(ended) or sweep.states[TrialState.RUNNING]:
        return f"since {begun}"
    return f"{begun}, took {duration((ended - min(sweep.started, sweep.runs['start'].min())).total_seconds())}"


def _cost(sweep: Sweep, resources: Mapping[str, float]) -> str:
    staged = costs(sweep)
    if not staged:
        return ""
    hours = sum(stage.hours for stage in staged)
    trials = max(stage.trials for stage in staged)
    gpus = float(resources.get("gpus") or 0) * float(resources.get("workers") or 1)
    in_gpus = f", {figure(hours * gpus)} GPU-hours" if gpus else ""
    return f"{hours:.3g} trial hours{in_gpus}; {duration(3600 * hours / trials)} a trial"


def _short(commit: str) -> str:
    number, dash, dirty = commit.partition("-")
    return number[:10] + (dash + dirty)


def _used(sweep: Sweep, path: str, written: str) -> str:
    """What the trials have had, which a search may vary; before any has begun, what the spec says."""
    had = [str(value) for value in dict.fromkeys(sweep.runs[path]) if pd.notna(value)] if path in sweep.runs else []
    more = f" and {len(had) - MAX_USED} more" if len(had) > MAX_USED else ""
    return ", ".join(had[:MAX_USED]) + more or written


def _name(section: object) -> str:
    return str(section.get("name") or "") if isinstance(section, Mapping) else str(section or "")


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")
