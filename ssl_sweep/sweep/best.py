"""Selects a trial of a sweep: the best, or one by the start of its id."""

import difflib
import math
from collections.abc import Sequence

from ssl_sweep.errors import UserError
from ssl_sweep.knobs.methods import pretrains
from ssl_sweep.ledger.best import ranked
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.weights import encoders_with
from ssl_sweep.storage.layout import Storage
from ssl_sweep.tracking.transcript import run_name
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trialdir.states import TrialState


class NoSuchTrial(UserError, LookupError):  # noqa: N818 - what it says
    """No trial, or more than one, fits the request."""


def select_trial(ledger: LedgerReader, storage: Storage, prefix: str | None) -> tuple[Trial, str]:
    """The trial whose id begins with `prefix`, by default the best, with a description. Raises NoSuchTrial."""
    spec = ledger.spec
    trial = best_trial(ledger, storage) if prefix is None else find_trial(ledger.trials, prefix)
    if trial is None:
        raise NoSuchTrial(_why_none(spec))
    words = [run_name(ledger.choice(trial.choice).knobs, trial.seed)]
    score = (trial.results or {}).get(spec.search.primary.metric)
    words += [f"{spec.search.primary.metric} {score:.4g}" if score is not None else trial.state]
    seeds = "the best fresh seed of the choice with the best mean over fresh seeds"
    seeds = seeds if trial.confirms else "the best seed of the choice with the best mean"
    words += [seeds] if prefix is None else []
    return trial, "; ".join(words)


def _why_none(spec: SweepSpec) -> str:
    """Why no trial of a sweep is the best one."""
    methods = sorted({name for kind, name in spec.names if kind == "methods"})
    if any(map(pretrains, methods)):
        remedy = f"choose a trial by its id: `ssl-sweep status {spec.name}` lists them"
        return f"sweep {spec.name!r} has no complete trial with an encoder; {remedy}"
    files = sorted({settings["weights"] for settings in encoders_with(spec, "weights")})
    remedy = f"the weights are those of {', '.join(files)}" if files else "name a sweep of a method that pretrains"
    return f"sweep {spec.name!r} has no encoder to export: method {', '.join(methods)} does not pretrain; {remedy}"


def best_trial(ledger: LedgerReader, storage: Storage) -> Trial | None:
    """The best trial of the best choice by the first objective; None if no complete trial has an encoder."""
    return next((trials[0] for trials in ranked_trials(ledger, storage)), None)


def ranked_trials(ledger: LedgerReader, storage: Storage) -> list[list[Trial]]:
    """The complete trials with an encoder, grouped by choice: best choice first, in each group best trial first.

    Choices are ranked as `knobs.best` has it, by all their complete trials; in each group fresh seeds come first.
    """
    objective = ledger.spec.search.primary
    exists = storage.presence(storage.sweep(ledger.spec.name))
    groups: dict[int, list[Trial]] = {number: [] for number, _ in ranked(ledger.trials, objective)}
    for trial in ledger.trials:
        score = (trial.results or {}).get(objective.metric, math.nan)
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        if trial.state == TrialState.COMPLETE and math.isfinite(score) and exists(encoder_path(folder)):
            groups[trial.choice].append(trial)

    def rank(trial: Trial) -> tuple[bool, float]:
        return trial.confirms, objective.sign * (trial.results or {})[objective.metric]

    return [sorted(trials, key=rank, reverse=True) for trials in groups.values() if trials]


def find_trial(trials: Sequence[Trial], prefix: str) -> Trial:
    """The only trial whose id begins with `prefix`. Raises NoSuchTrial."""
    matches = [trial for trial in trials if trial.trial_id.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(trial.trial_id for trial in matches[:3])
        raise NoSuchTrial(f"{len(matches)} trials begin with {prefix!r} ({listed}, ...); write more of the id")
    near = difflib.get_close_matches(prefix, [trial.trial_id for trial in trials], n=1, cutoff=0.3)
    remedy = f"did you mean {near[0]!r}?" if near else "`ssl-sweep status` lists them"
    raise NoSuchTrial(f"no trial {prefix!r}; {remedy}")
