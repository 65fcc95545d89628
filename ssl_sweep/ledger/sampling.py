"""Optuna's samplers and pruners by name, and a spec's search space as Optuna has it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover
from optuna.trial import FrozenTrial

from ssl_sweep.ledger.compat import set_group_ranges
from ssl_sweep.spec.pruning import max_epochs
from ssl_sweep.spec.sweep import Categorical, Range, SweepSpec, space

GENERATIONS = 8  # of a genetic search


class SearchState(NamedTuple):
    """Where a search stands when a choice is asked for."""

    seed: int  # the search's
    position: int  # how many choices there are already
    wanted: int  # and how many there will be
    distributions: Mapping[str, BaseDistribution]
    earlier: Sequence[FrozenTrial] = ()  # of other sweeps
    conditional: bool = False  # whether some choices have knobs that others lack

    @property
    def own_seed(self) -> int:
        """A sampler's random numbers die with the driver: seeded by position, a resumed search repeats none."""
        return self.seed + self.position


class _OwnSpace(BaseSampler):
    """Models every knob over the range that it has now.

    Optuna models those whose distribution has been the same all along, and draws a knob that was widened at random.
    """

    def __init__(self, state: SearchState, **settings: Any) -> None:
        super().__init__(**settings)
        self._now = {name: state.distributions[name] for name in sorted(state.distributions)}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: values for name, values in self._now.items() if not values.single()}


class _GP(_OwnSpace, GPSampler): ...


class _TPE(_OwnSpace, TPESampler): ...


class _NSGA2(_OwnSpace, NSGAIISampler): ...


class _GroupedTPE(TPESampler):
    """Models knobs that only some choices have by themselves; each over the range that it has now, and not at first."""

    def __init__(self, state: SearchState, **settings: Any) -> None:
        super().__init__(group=True, **settings)
        self._now = state.distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found = super().infer_relative_search_space(study, trial)
        set_group_ranges(self, self._now)
        return {name: self._now.get(name, values) for name, values in found.items()}


class _Sequence(QMCSampler):
    """The points of one scrambled Sobol sequence, from its first on; Optuna's own draws the first choices at random."""

    def __init__(self, state: SearchState) -> None:
        super().__init__(scramble=True, seed=state.seed, independent_sampler=RandomSampler(seed=state.own_seed))
        self._distributions = state.distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._distributions)


def _cmaes(state: SearchState) -> BaseSampler:
    # the search's seed: its state is in the study, and it adds the choice's number itself. Until there is a state,
    # choices are drawn at random, and by one seed would all be the same
    first = RandomSampler(seed=state.own_seed)
    return CmaEsSampler(seed=state.seed, independent_sampler=first, source_trials=list(state.earlier) or None)


def _nsga2(state: SearchState) -> BaseSampler:
    # Optuna's generations of 50 would make most searches of ours one generation, drawn at random. Which generation a
    # choice is of, and its parents, stand in the study
    size = min(max(state.wanted // GENERATIONS, 4), 50)
    # Deb's own operators: Optuna's copy a parent's values, and try many choices twice
    return _NSGA2(
        state, population_size=size, crossover=SBXCrossover(), mutation=PolynomialMutation(), seed=state.own_seed
    )


SAMPLERS: dict[str, Callable[[SearchState], BaseSampler]] = {
    "grid": lambda state: RandomSampler(seed=state.own_seed),  # never asked: a grid's points are enqueued in order
    "random": lambda state: RandomSampler(seed=state.own_seed),
    "qmc": _Sequence,  # how far it is stands in the study, under the sequence's seed
    "tpe": lambda state: (_GroupedTPE if state.conditional else _TPE)(
        state, seed=state.own_seed, multivariate=True, constant_liar=True
    ),
    "gp": lambda state: _GP(state, seed=state.own_seed),
    "cmaes": _cmaes,
    "nsga2": _nsga2,
}
PRUNERS: dict[str, Callable[[Any, int], BasePruner]] = {  # of their section in the spec, and the epochs at most
    "median": lambda own, _: MedianPruner(n_startup_trials=own.min_choices, n_warmup_steps=own.min_epochs),
    "asha": lambda own, _: SuccessiveHalvingPruner(own.min_epochs, own.reduction_factor),
    "hyperband": lambda own, epochs: HyperbandPruner(own.min_epochs, epochs, own.reduction_factor),
    "wilcoxon": lambda own, _: WilcoxonPruner(p_threshold=own.p_threshold, n_startup_steps=own.min_seeds),
}


def sampler(name: str, state: SearchState) -> BaseSampler:
    """The sampler for one choice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # what its interface may become is Optuna's word to us
        return SAMPLERS[name](state)


def pruner(spec: SweepSpec) -> BasePruner | None:
    """The sweep's pruner, if it has one."""
    search = spec.search
    if isinstance(search.pruner, str):
        return None
    epochs = max_epochs(search, spec.pretrain, spec.evaluate) if search.prunes_by == "epoch" else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[search.pruner.name](search.pruner, epochs)


def distribution(values: Categorical | Range) -> BaseDistribution:
    """A searched knob's values as Optuna has them."""
    if isinstance(values, Categorical):
        return CategoricalDistribution(values.values)
    low, high, step = values.low, values.high, values.step
    if values.is_int:
        return IntDistribution(int(low), int(high), log=values.log, step=int(step or 1))
    return FloatDistribution(low, high, log=values.log, step=step)


class Knobs:
    """A spec's search space as Optuna has it: by names that are the knobs' paths, but where a branch has knobs.

    There two branches may give a knob of the same name other values, and Optuna wants one distribution a name.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.always = {path: distribution(values) for path, values in space(spec).items()}
        self._paths: dict[tuple[str, str], dict[str, str]] = {}  # of a section and its name: path -> Optuna's name
        self._distributions = dict(self.always)
        for section, branches in spec.search.branches.items():
            for branch in branches.choices:
                names = {f"{section}.{knob}": f"{section}.{branch.name}.{knob}" for knob in branch.space}
                self._paths[section, branch.name] = names
                for name, values in zip(names.values(), branch.space.values(), strict=True):
                    self._distributions[name] = distribution(values)
        self._sections = tuple(spec.search.branches)

    @property
    def conditional(self) -> bool:
        """Whether some choices have knobs that others lack."""
        return bool(self._sections)

    def distributions(self, chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Those of a choice, by Optuna's names; as far as its sections are known."""
        return {name: self._distributions[name] for name in (*self.always, *self._own(chosen).values())}

    def params(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """A choice's knobs by Optuna's names."""
        own = self._own(knobs)
        return {own.get(path, path): value for path, value in knobs.items()}

    def knobs(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The knobs by their paths, a section's own after it."""
        own = self._own(params)
        order = [
            each for path in self.always for each in (path, *(knob for knob in own if knob.startswith(f"{path}.")))
        ]
        names = {path: own.get(path, path) for path in order}
        return {path: params[name] for path, name in names.items() if name in params}

    def _own(self, chosen: Mapping[str, Any]) -> dict[str, str]:
        own: dict[str, str] = {}
        for section in self._sections:
            own |= self._paths.get((section, chosen.get(section, "")), {})
        return own


def suggest(asked: optuna.Trial, knob: str, values: BaseDistribution) -> None:
    """Give a knob its value; Optuna returns the one it has when there is one."""
    if isinstance(values, CategoricalDistribution):
        asked.suggest_categorical(knob, values.choices)
    elif isinstance(values, IntDistribution):
        asked.suggest_int(knob, values.low, values.high, step=values.step, log=values.log)
    elif isinstance(values, FloatDistribution):
        asked.suggest_float(knob, values.low, values.high, step=values.step, log=values.log)
