"""Texts and small tables of the page: counts, the best choice, failures, cost, the next command."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ssl_sweep.report.figures import number_text, shortened
from ssl_sweep.report.sweep import Sweep, trial_label
from ssl_sweep.report.views import views_of
from ssl_sweep.tables.labels import MARKS, display_name, duration, in_percent
from ssl_sweep.tracking.reader import artifact
from ssl_sweep.trialdir.states import TrialState

MAX_FAILURES = 10  # kinds of failure
MAX_TRIALS = 3  # of a kind of failure, that are listed
MAX_MESSAGE = 600  # characters
MAX_USED = 4  # methods, encoders or data sources that are named


@dataclass(frozen=True)
class State:
    """The number of trials in a state, with a mark that differs from others without colour."""

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
    """Trials that failed in the same way."""

    reason: str
    message: str
    count: int
    trials: tuple[tuple[str, str], ...]  # some of them: choice and seed, and the command that shows the log
    traceback: str | None


@dataclass(frozen=True)
class StageCost:
    """The cost of a stage: trials that finished it, mean seconds, total hours, share of all hours."""

    name: str
    trials: int
    mean_seconds: float
    hours: float
    share: float


@dataclass(frozen=True)
class NextStep:
    """A command and its purpose."""

    command: str
    purpose: str


def states(sweep: Sweep) -> list[State]:
    """The states of trials, and how many have not begun."""
    begun = [State(name.lower(), mark, sweep.states[name]) for name, mark in MARKS.items() if sweep.states[name]]
    waiting = (sweep.planned or 0) - len(sweep.runs)
    return [*begun, *([State("not begun", "○", waiting)] if waiting > 0 else [])]


def facts(sweep: Sweep) -> dict[str, str]:
    """The facts at the top of the page, by their names."""
    spec, search = sweep.spec, sweep.spec.get("search") or {}
    resources = spec.get("resources") or {}
    facts = {
        "objective": ", ".join(map(str, sweep.objectives)),
        "sampler": str(search.get("sampler") or ""),
        "data": _used(sweep, "data.source", str((spec.get("data") or {}).get("source") or "")),
        "data fingerprint": sweep.fingerprint,
        "method": _used(sweep, "method.name", _name(spec.get("method"))),
        "encoder": _used(sweep, "encoder.name", _name(spec.get("encoder"))),
        "views": views_of(sweep),
        "when": _when(sweep),
        "cost": _cost(sweep, resources),
        "commit": ", ".join(map(_short, sweep.commits[:3])) + (" and others" if len(sweep.commits) > 3 else ""),
    }
    return {name: text for name, text in facts.items() if text}


def best(sweep: Sweep) -> Best | None:
    """The best choice; None before a trial has an objective."""
    first = next((choice for choice in sweep.choices if choice.objective is not None), None)
    if first is None:
        return None
    seeds = f", mean of {first.num_seeds} seeds" if first.num_seeds > 1 else ""
    unit = "\u202f%" if in_percent(sweep.metric) else ""
    if first.confirmed is not None:
        searched = f"{number_text(first.objective)}{unit}{seeds}, in the search"
        confirmed = f"{number_text(first.confirmed)}{unit}, mean of {first.num_fresh} fresh seeds"
        return Best(first.label, f"{display_name(sweep.metric)} {confirmed} ({searched})")
    return Best(first.label, f"{display_name(sweep.metric)} {number_text(first.objective)}{unit}{seeds}")


def next_step(sweep: Sweep) -> NextStep:
    """The command that the reader probably needs next."""
    name = shlex.quote(sweep.name)
    if sweep.states[TrialState.RUNNING]:
        return NextStep(f"ssl-sweep status {name} --watch", "it is running: watch it")
    complete = sweep.states[TrialState.COMPLETE]
    if complete < (sweep.planned or len(sweep.runs)) - sweep.states[TrialState.PRUNED] or not complete:
        return NextStep(f"ssl-sweep resume {name}", "run the trials that are not complete")
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
    """The number of kinds of failure that are not listed."""
    failed = sweep.runs[sweep.runs["state"] == TrialState.FAILED]
    return len(set(zip(failed["reason"], failed["message"], strict=True))) - shown


def collapsed(sweep: Sweep) -> list[str]:
    """The trials whose features collapsed, by their choice and seed."""
    trials = sweep.runs[sweep.runs["trial_id"].isin(sweep.collapsed)]
    return [trial_label(sweep, trial) for _, trial in trials.iterrows()]


def costs(sweep: Sweep) -> list[StageCost]:
    """The cost of each stage: pretraining, then the evaluations in the spec's order."""
    names = ["pretrain", *(sweep.spec.get("evaluate") or {})]
    seconds = {name: sweep.runs[f"{name}/seconds"].dropna() for name in names if f"{name}/seconds" in sweep.runs}
    total = sum(float(each.sum()) for each in seconds.values())
    return [
        StageCost(name, len(each), float(each.mean()), float(each.sum()) / 3600, float(each.sum()) / (total or 1.0))
        for name, each in seconds.items()
        if len(each)
    ]


def _log(sweep: Sweep, trial: pd.Series) -> str:
    """The command that shows a trial's log on a machine with the storage folder."""
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
    in_gpus = f", {number_text(hours * gpus)} GPU-hours" if gpus else ""
    return f"{hours:.3g} trial hours{in_gpus}; {duration(3600 * hours / trials)} a trial"


def _short(commit: str) -> str:
    number, dash, dirty = commit.partition("-")
    return number[:10] + (dash + dirty)


def _used(sweep: Sweep, path: str, written: str) -> str:
    """The values that trials have had, which a search may vary; before any has begun, the spec's."""
    had = [str(value) for value in dict.fromkeys(sweep.runs[path]) if pd.notna(value)] if path in sweep.runs else []
    more = f" and {len(had) - MAX_USED} more" if len(had) > MAX_USED else ""
    return ", ".join(had[:MAX_USED]) + more or written


def _name(section: object) -> str:
    return str(section.get("name") or "") if isinstance(section, Mapping) else str(section or "")


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")
