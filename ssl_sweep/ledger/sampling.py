"""Makes Optuna's samplers and pruners from their names, and its distributions from a spec's search space."""

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

GENERATIONS = 8  # in a genetic search


class SearchState(NamedTuple):
    """The state of a search when it asks for a choice."""

    seed: int  # the search's
    position: int  # the number of choices so far
    wanted: int  # the number of choices in the end
    distributions: Mapping[str, BaseDistribution]
    earlier: Sequence[FrozenTrial] = ()  # from other sweeps
    conditional: bool = False  # whether some choices have knobs that others lack

    @property
    def own_seed(self) -> int:
        """Differs by position: a driver's generator ends with it, and a resumed search must not repeat draws."""
        return self.seed + self.position


class _OwnSpace(BaseSampler):
    """Models every knob over its current range.

    Optuna models only knobs whose distribution never changed, and samples a widened one at random.
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
    """Models knobs that only some choices have as groups of their own, each knob over its current range."""

    def __init__(self, state: SearchState, **settings: Any) -> None:
        super().__init__(group=True, **settings)
        self._now = state.distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        inferred = super().infer_relative_search_space(study, trial)
        set_group_ranges(self, self._now)
        return {name: self._now.get(name, values) for name, values in inferred.items()}


class _Sequence(QMCSampler):
    """The points of one scrambled Sobol sequence from the first on; Optuna samples the first choices at random."""

    def __init__(self, state: SearchState) -> None:
        super().__init__(scramble=True, seed=state.seed, independent_sampler=RandomSampler(seed=state.own_seed))
        self._distributions = state.distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._distributions)


def _cmaes(state: SearchState) -> BaseSampler:
    # `seed` does not vary by position: the sampler keeps its state in the study and adds the choice's number itself.
    # The first choices are independent random ones, which the same seed would make equal
    first = RandomSampler(seed=state.own_seed)
    return CmaEsSampler(seed=state.seed, independent_sampler=first, source_trials=list(state.earlier) or None)


def _nsga2(state: SearchState) -> BaseSampler:
    # with Optuna's 50 a generation, most searches would have one generation, at random. The study stores the
    # generation and the parents of each choice
    size = min(max(state.wanted // GENERATIONS, 4), 50)
    # Deb's operators: Optuna's default copies a parent's values, and repeats many choices
    return _NSGA2(
        state, population_size=size, crossover=SBXCrossover(), mutation=PolynomialMutation(), seed=state.own_seed
    )


SAMPLERS: dict[str, Callable[[SearchState], BaseSampler]] = {
    "grid": lambda state: RandomSampler(seed=state.own_seed),  # unused: a grid's points are enqueued in order
    "random": lambda state: RandomSampler(seed=state.own_seed),
    "qmc": _Sequence,  # stores its position in the study, under the sequence's seed
    "tpe": lambda state: (_GroupedTPE if state.conditional else _TPE)(
        state, seed=state.own_seed, multivariate=True, constant_liar=True
    ),
    "gp": lambda state: _GP(state, seed=state.own_seed),
    "cmaes": _cmaes,
    "nsga2": _nsga2,
}
PRUNERS: dict[str, Callable[[Any, int], BasePruner]] = {  # of the section in the spec, and the maximum epochs
    "median": lambda own, _: MedianPruner(n_startup_trials=own.min_choices, n_warmup_steps=own.min_epochs),
    "asha": lambda own, _: SuccessiveHalvingPruner(own.min_epochs, own.reduction_factor),
    "hyperband": lambda own, epochs: HyperbandPruner(own.min_epochs, epochs, own.reduction_factor),
    "wilcoxon": lambda own, _: WilcoxonPruner(p_threshold=own.p_threshold, n_startup_steps=own.min_seeds),
}


def sampler(name: str, state: SearchState) -> BaseSampler:
    """Make the sampler for one choice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of samplers whose interface may change
        return SAMPLERS[name](state)


def pruner(spec: SweepSpec) -> BasePruner | None:
    """Make the sweep's pruner, if it has one."""
    search = spec.search
    if isinstance(search.pruner, str):
        return None
    epochs = max_epochs(search, spec.pretrain, spec.evaluate) if search.prunes_by == "epoch" else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PRUNERS[search.pruner.name](search.pruner, epochs)


def distribution(values: Categorical | Range) -> BaseDistribution:
    """Convert a searched knob's values to Optuna's distribution."""
    if isinstance(values, Categorical):
        return CategoricalDistribution(values.values)
    low, high, step = values.low, values.high, values.step
    if values.is_int:
        return IntDistribution(int(low), int(high), log=values.log, step=int(step or 1))
    return FloatDistribution(low, high, log=values.log, step=step)


class Knobs:
    """Maps a spec's searched knobs to Optuna's parameters. A parameter's name is the knob's path, except in branches.

    Two branches may have different values for a knob of the same name, and Optuna needs one distribution a name.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self._values = space(spec)
        self.always = {path: distribution(values) for path, values in self._values.items()}
        self._paths: dict[tuple[str, str], dict[str, str]] = {}  # (section, branch) -> {path: Optuna's name}
        self._distributions = dict(self.always)
        for section, branches in spec.search.branches.items():
            for branch in branches.choices:
                names = {f"{section}.{knob}": f"{section}.{branch.name}.{knob}" for knob in branch.space}
                self._paths[section, branch.name] = names
                for name, values in zip(names.values(), branch.space.values(), strict=True):
                    self._values[name], self._distributions[name] = values, distribution(values)
        self._sections = tuple(spec.search.branches)

    @property
    def conditional(self) -> bool:
        """Whether some choices have knobs that others lack."""
        return bool(self._sections)

    def distributions(self, chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """The distributions of a choice by Optuna's names, as far as its branches are chosen."""
        return {name: self._distributions[name] for name in (*self.always, *self._own(chosen).values())}

    def params(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a choice's knobs to parameters."""
        own = self._own(knobs)
        return {own.get(path, path): value for path, value in knobs.items()}

    def knobs(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Convert parameters to knobs; a branch's own knobs come after its section."""
        own = self._own(params)
        order = [
            name for path in self.always for name in (path, *(knob for knob in own if knob.startswith(f"{path}.")))
        ]
        names = {path: own.get(path, path) for path in order}
        return {path: params[name] for path, name in names.items() if name in params}

    def misrounded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that Optuna has put beside a step of their range, 0.30000000000000004, as the spec lists them.

        Other text is another stage key and another row of the table.
        """
        ranges = {name: values for name in params if isinstance(values := self._values.get(name), Range)}
        listed = {name: values.nearest(params[name]) for name, values in ranges.items()}
        return {name: value for name, value in listed.items() if value != params[name]}

    def _own(self, chosen: Mapping[str, Any]) -> dict[str, str]:
        own: dict[str, str] = {}
        for section in self._sections:
            own |= self._paths.get((section, chosen.get(section, "")), {})
        return own


def suggest(trial: optuna.Trial, knob: str, values: BaseDistribution) -> None:
    """Suggest a knob's value; a knob that has one keeps it."""
    if isinstance(values, CategoricalDistribution):
        trial.suggest_categorical(knob, values.choices)
    elif isinstance(values, IntDistribution):
        trial.suggest_int(knob, values.low, values.high, step=values.step, log=values.log)
    elif isinstance(values, FloatDistribution):
        trial.suggest_float(knob, values.low, values.high, step=values.step, log=values.log)
