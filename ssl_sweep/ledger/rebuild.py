"""Makes a sweep's study anew from what its trials' folders tell, so that the search goes on where it was."""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from ssl_sweep.ledger.cached_storage import CachedStudyStorage
from ssl_sweep.ledger.database import open_storage
from ssl_sweep.ledger.entries import DATA, PINS, Choice, DataNote, LedgerError, Notes, Trial
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.reader import CONFIRM, LOST, SETTINGS, setting_key
from ssl_sweep.ledger.sampling import Knobs, SearchState, pruner, sampler
from ssl_sweep.ledger.warm_start import lessons
from ssl_sweep.spec.search import Search
from ssl_sweep.spec.sweep import SweepSpec, grid
from ssl_sweep.trialdir.states import TrialState


@dataclass(frozen=True)
class FoundTrial:
    """A trial as its folder tells it."""

    trial: Trial
    knobs: Mapping[str, Any]  # the searched ones
    settings: Mapping[str, Any]  # the others, which a resume has set
    reports: Mapping[int, float]  # what an epoch pruner judges, by epoch


def rebuild_study(
    url: str, spec: SweepSpec, found: Sequence[FoundTrial], pins: Mapping[str, str], data: DataNote
) -> None:
    """Make the study of a sweep from its trials, in place of the one that the ledger has.

    Choices keep their numbers and trials their ids and states. The sweep is in the ledger once the last write is done:
    if the process dies before, this may be called again. Only the sweep's only driver may call it.
    """
    database = open_storage(url, is_lost=True)
    if spec.name in optuna.get_all_study_names(database):
        optuna.delete_study(storage=database, study_name=spec.name)
    directions = [objective.direction for objective in spec.search.objectives]
    optuna.create_study(storage=database, study_name=spec.name, directions=directions)
    cached = CachedStudyStorage(database, spec.name)
    study = optuna.load_study(storage=cached, study_name=spec.name)
    with cached.transaction():
        study.add_trials(_trials(url, spec, found))
    if spec.search.sampler == "qmc":
        for key, value in _qmc_position(spec, len({each.trial.choice for each in found})).items():
            database.set_study_system_attr(database.get_study_id_from_name(spec.name), key, value)
    notes = Notes(study, database)
    notes.write("uuid", str(uuid.uuid4()))
    notes.write(PINS, dict(pins))
    notes.write(DATA, asdict(data))
    notes.write("taught", True)
    for number in {each.trial.choice for each in found if each.trial.confirms}:
        confirming = [each.trial for each in found if each.trial.confirms and each.trial.choice == number]
        notes.write(f"{CONFIRM}:{number}", [asdict(trial) for trial in sorted(confirming, key=lambda each: each.seed)])
    notes.write("spec", spec.model_dump(mode="json"))  # last: without it, no command takes the study for a sweep


def _trials(url: str, spec: SweepSpec, found: Sequence[FoundTrial]) -> list[FrozenTrial]:
    """Optuna's trials by number: the choices, and where numbers are free, what stood or may have stood there."""
    by_number: dict[int, dict[int, FoundTrial]] = {}
    for each in found:
        seeds = by_number.setdefault(each.trial.choice, {})
        if not each.trial.confirms:
            seeds[each.trial.seed] = each
        else:
            seeds.setdefault(-1 - each.trial.seed, each)  # its knobs, if no other trial of the choice is left
    choices = {number: _frozen(spec, number, seeds) for number, seeds in by_number.items()}
    _add_what_the_pruner_keeps(spec, choices)
    free = iter(sorted(set(range(max(choices, default=-1) + 1)) - choices.keys()))
    first = min(choices, default=0)
    choices |= dict(zip(range(first), _lessons(url, spec), strict=False))
    for settings in _skipped(spec, by_number):
        number = next((number for number in free if number not in choices), len(choices))
        choices[number] = _open_choice(spec, settings)
    lost = create_trial(state=OptunaState.FAIL, user_attrs={LOST: True})
    return [choices.get(number, lost) for number in range(max(choices, default=-1) + 1)]


def _frozen(spec: SweepSpec, number: int, seeds: Mapping[int, FoundTrial]) -> FrozenTrial:
    """A choice as Optuna's trial; the trials of seeds without a folder have not run, and are not stored."""
    knobs, names = Knobs(spec), next(iter(seeds.values())).knobs
    known = {seed: each.trial for seed, each in seeds.items() if not each.trial.confirms}
    trials = [known.get(seed) or Trial("", number, seed) for seed in spec.search.seeds]
    choice = Choice(number, names, tuple(trials), _why_pruned(spec.search, trials))
    judged = _judged(spec.search, trials, seeds)
    state, values = _told(choice, spec.search.metrics, judged)
    attrs: dict[str, Any] = {f"seed:{seed}": asdict(trial) for seed, trial in known.items()}
    if settings := next(iter(seeds.values())).settings:
        attrs[SETTINGS] = dict(settings)
    try:
        return create_trial(
            state=state,
            values=values,
            params=knobs.params(names),
            distributions=knobs.distributions(names),
            user_attrs=attrs if choice.pruned is None else {**attrs, "pruned": choice.pruned},
            intermediate_values=judged,
        )
    except (KeyError, ValueError) as error:  # Optuna's: a knob is missing, or its value is not in its range
        raise LedgerError(f"choice {number} of {spec.name} does not fit the spec ({error}); check spec.yaml") from error


def _told(
    choice: Choice, metrics: Sequence[str], judged: Mapping[int, float]
) -> tuple[OptunaState, Sequence[float] | None]:
    """What Optuna was told of a choice, as `OpenChoice.tell` does."""
    if not choice.ended:
        return OptunaState.RUNNING, None
    if (means := choice.means(metrics)) is not None:
        return OptunaState.COMPLETE, means
    pruned = not choice.retriable and any(trial.state == TrialState.PRUNED for trial in choice.trials)
    if pruned:
        return OptunaState.PRUNED, [judged[max(judged)]] if judged else None
    return OptunaState.FAIL, None


def _why_pruned(search: Search, trials: Sequence[Trial]) -> str | None:
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    if not pruned:
        return None
    return (
        (pruned[0].message or "pruned").removeprefix("not run: ") if search.prunes_by == "seed" else pruned[0].message
    )


def _judged(search: Search, trials: Sequence[Trial], seeds: Mapping[int, FoundTrial]) -> dict[int, float]:
    """What the pruner was told of a choice: the first seed's epochs, or the seeds' results."""
    if search.prunes_by == "epoch" and (first := seeds.get(trials[0].seed)) is not None:
        return {step: search.prune_sign * value for step, value in first.reports.items() if math.isfinite(value)}
    if search.prunes_by == "seed":
        results = {
            step: (trial.results or {}).get(search.primary.metric, math.nan) for step, trial in enumerate(trials)
        }
        return {step: value for step, value in results.items() if math.isfinite(value)}
    return {}


def _add_what_the_pruner_keeps(spec: SweepSpec, choices: Mapping[int, FrozenTrial]) -> None:
    """Store in each choice what the pruner kept of it, the rungs of successive halving, by asking it once more."""
    own = pruner(spec)
    if own is None or spec.search.prunes_by != "epoch":
        return
    direction = spec.search.primary.direction
    scratch = optuna.create_study(study_name=spec.name, direction=direction, pruner=own)  # brackets go by the name
    for number in range(max(choices, default=-1) + 1):
        trial = scratch.ask()
        for step, value in sorted(choices[number].intermediate_values.items()) if number in choices else ():
            trial.report(value, step)
            trial.should_prune()
    for asked in scratch.get_trials(deepcopy=False):
        if asked.number in choices:
            choices[asked.number].system_attrs = asked.system_attrs


def _lessons(url: str, spec: SweepSpec) -> list[FrozenTrial]:
    """What the sweep learned from earlier ones, which have the numbers before its first choice."""
    try:
        earlier = {name: load_ledger(url, name).choices for name in spec.search.earlier}
    except LedgerError:  # gone: the search goes on without them
        return []
    return lessons(earlier, spec, Knobs(spec))[0]


def _skipped(spec: SweepSpec, by_number: Mapping[int, Mapping[int, FoundTrial]]) -> list[Mapping[str, Any]]:
    """The settings of a grid before the last one found that have no trial: they were asked for, and must still run."""
    if spec.search.sampler != "grid":
        return []
    points = grid(spec)
    known = {setting_key(next(iter(seeds.values())).knobs) for seeds in by_number.values()}
    last = max((at for at, point in enumerate(points) if setting_key(point) in known), default=-1)
    return [point for point in points[: last + 1] if setting_key(point) not in known]


def _open_choice(spec: SweepSpec, settings: Mapping[str, Any]) -> FrozenTrial:
    knobs = Knobs(spec)
    return create_trial(
        state=OptunaState.RUNNING, params=knobs.params(settings), distributions=knobs.distributions(settings)
    )


def _qmc_position(spec: SweepSpec, asked: int) -> dict[str, Any]:
    """Where a Sobol sequence stands after so many choices, as its sampler stores it in the study."""
    storage, knobs = InMemoryStorage(), Knobs(spec)
    scratch = optuna.create_study(storage=storage)
    for position in range(asked):
        scratch.sampler = sampler("qmc", SearchState(spec.search.seed, position, asked, knobs.always))
        scratch.ask(knobs.always)
    return dict(storage.get_all_studies()[0].system_attrs)
