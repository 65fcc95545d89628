"""Which trial of a sweep is meant: its best, or the one that a person has named."""

import difflib
import math
from collections import defaultdict
from collections.abc import Sequence

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.storage import mirror
from ssl_sweep.storage.layout import Storage
from ssl_sweep.tracking.transcript import run_name
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trialdir.states import TrialState


class NoSuchTrial(UserError, LookupError):  # noqa: N818 - what it says
    """No trial, or more than one, is what was asked for."""


def select_trial(ledger: Ledger, storage: Storage, named: str | None) -> tuple[Trial, str]:
    """The trial that is named, or else the best, and which one it is in words. Raises NoSuchTrial."""
    spec = ledger.spec
    trial = best_trial(ledger, storage) if named is None else find_trial(ledger.trials, named)
    if trial is None:
        raise NoSuchTrial(f"sweep {spec.name!r} has no complete trial with an encoder; name another with --trial")
    words = [run_name(ledger.choice(trial.choice).knobs, trial.seed)]
    score = (trial.results or {}).get(spec.search.primary.metric)
    words += [f"{spec.search.primary.metric} {score:.4g}" if score is not None else trial.state]
    seeds = "the best fresh seed of the choice with the best mean over fresh seeds"
    seeds = seeds if trial.confirms else "the best seed of the choice with the best mean"
    words += [seeds] if named is None else []
    return trial, "; ".join(words)


def best_trial(ledger: Ledger, storage: Storage) -> Trial | None:
    """Of the best choice the best trial, by the first objective; None where no trial is complete with an encoder."""
    return next((trials[0] for trials in ranked(ledger, storage)), None)


def ranked(ledger: Ledger, storage: Storage) -> list[list[Trial]]:
    """The complete trials with an encoder by choice, the best choice first, of each its best trial first.

    The best choice has the best mean over seeds, among those with the most complete seeds: fewer make a lucky mean.
    What was confirmed comes first, by its fresh seeds, and these first.
    """
    objective = ledger.spec.search.primary
    scores: dict[int, list[tuple[bool, float, Trial]]] = defaultdict(list)
    is_there = mirror.presence(storage, storage.sweep(ledger.spec.name))
    for trial in ledger.trials:
        score = objective.sign * (trial.results or {}).get(objective.metric, math.nan)
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        if trial.state == TrialState.COMPLETE and math.isfinite(score) and is_there(encoder_path(folder)):
            scores[trial.choice].append((trial.confirms, score, trial))
    ranks = {choice: (*_standing(seeds, True), *_standing(seeds, False)) for choice, seeds in scores.items()}
    return [
        [trial for *_, trial in sorted(scores[choice], key=lambda seed: seed[:2], reverse=True)]
        for choice in sorted(scores, key=ranks.__getitem__, reverse=True)
    ]


def _standing(seeds: Sequence[tuple[bool, float, Trial]], confirms: bool) -> tuple[int, float]:
    """How many seeds of the search, or fresh ones, and their mean score."""
    scores = [score for confirmed, score, _ in seeds if confirmed == confirms]
    return len(scores), sum(scores) / len(scores) if scores else 0.0


def find_trial(trials: Sequence[Trial], named: str) -> Trial:
    """The trial whose id begins with `named`. Raises NoSuchTrial."""
    found = [trial for trial in trials if trial.trial_id.startswith(named)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(trial.trial_id for trial in found[:3])
        raise NoSuchTrial(f"{len(found)} trials begin with {named!r} ({listed}, ...); write more of the id")
    near = difflib.get_close_matches(named, [trial.trial_id for trial in trials], n=1, cutoff=0.3)
    remedy = f"did you mean {near[0]!r}?" if near else "`ssl-sweep status` lists them"
    raise NoSuchTrial(f"no trial {named!r}; {remedy}")
