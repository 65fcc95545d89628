"""A search's rules, without a study: which trials run, end or are retried, and which choices are best."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from ssl_sweep.ledger.entries import Choice, Trial
from ssl_sweep.spec.compared import compared
from ssl_sweep.spec.search import Search
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.tables.pareto import on_front
from ssl_sweep.trialdir.states import TrialState


def due(search: Search, choice: Choice) -> list[Trial]:
    """The trials of a choice that may run: with a pruner, only what it judges next."""
    fresh = [trial for trial in choice.confirming if not trial.ended]
    left = [trial for trial in choice.trials if not trial.ended]
    by, first = search.prunes_by, choice.trials[0]
    if by is None or (by == "epoch" and first.state == TrialState.COMPLETE):
        return left + fresh
    return (left[:1] if choice.pruned is None else []) + fresh


def unrun(search: Search, choice: Choice) -> list[Trial]:
    """The trials that will not run any more, with their final states."""
    by, first = search.prunes_by, choice.trials[0]
    left = [trial for trial in choice.trials if not trial.ended]
    if by == "seed" and choice.pruned is not None:
        return [replace(trial, state=TrialState.PRUNED, message=f"not run: {choice.pruned}") for trial in left]
    if by != "epoch" or not first.ended or first.state == TrialState.COMPLETE:
        return []
    state = TrialState.PRUNED if first.state == TrialState.PRUNED else TrialState.STOPPED
    message = f"not run: seed {first.seed} {first.message if state == 'PRUNED' else f'is {first.state}'}"
    return [replace(trial, state=state, message=message) for trial in left]


def reset_for_retry(search: Search, choice: Choice, chosen: Collection[str]) -> list[Trial]:
    """A choice's trials after a retry: resets the chosen ids, and trials that ended only because the first seed did."""
    follow = {trial.trial_id for trial in choice.trials if trial.state == TrialState.STOPPED and trial.attempts == 0}
    again = {*chosen, *(follow if search.prunes_by == "epoch" else ())}
    return [trial.reset() if trial.trial_id in again else trial for trial in choice.trials]


def fresh_seeds(spec: SweepSpec, choices: Mapping[int, Choice]) -> dict[int, list[int]]:
    """The fresh seeds that the choices to confirm do not have yet, by the choice's number."""
    search = spec.search
    if search.confirm is None:
        return {}
    order = _best_first(search, choices)
    wanted = order[: search.confirm.top]
    if search.confirm.table:
        wanted += compared(spec, {number: choices[number].run_with for number in order}, order)
    lacking: dict[int, list[int]] = {}
    for number in dict.fromkeys(wanted):
        known = {trial.seed for trial in choices[number].confirming}
        lacking[number] = [seed for seed in search.confirm.seeds if seed not in known]
    return lacking


def _best_first(search: Search, choices: Mapping[int, Choice]) -> list[int]:
    """The numbers of the complete choices, best first by the first objective; with two, the front comes first."""
    means = {number: choice.means(search.metrics) for number, choice in choices.items()}
    scored = {
        number: tuple(objective.sign * mean for objective, mean in zip(search.objectives, values, strict=True))
        for number, values in means.items()
        if values is not None
    }
    front = on_front([(first, rest[0] if rest else 0.0) for first, *rest in scored.values()])
    ranked = zip(front, scored.items(), strict=True)
    order = sorted((not best, -values[0], number) for best, (number, values) in ranked)
    return [number for *_, number in order]
