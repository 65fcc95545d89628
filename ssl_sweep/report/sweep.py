"""A sweep as its page needs it, read from MLflow once."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import pandas as pd

from ssl_sweep.knobs.best import Scores, best_first
from ssl_sweep.knobs.objective import Objective
from ssl_sweep.report.choices import Choice, Knob
from ssl_sweep.spec.domains import Range
from ssl_sweep.tables.labels import Key, display_name, value_text
from ssl_sweep.tables.options import make_table, objectives_of, with_interrupted, with_undrawn
from ssl_sweep.tables.pivot import is_fresh, plain, values_of
from ssl_sweep.tables.table import Table
from ssl_sweep.tracking import reader, store
from ssl_sweep.tracking.transcript import FINGERPRINT, PREFIX
from ssl_sweep.trialdir.states import ENDED, TrialState

CASE = "case"
LOG_RATIO = 10  # span of listed positive numbers from which a logarithmic axis may be better


@dataclass(frozen=True)
class Sweep:
    """All of one sweep except its metrics by epoch and its pictures.

    runs: as from `tracking.reader.runs`. collapsed: ids of trials whose features collapsed. planned: how many trials
    the spec asks for, None if that cannot be known.
    """

    name: str
    spec: Mapping[str, Any]
    runs: pd.DataFrame
    started: pd.Timestamp
    commits: tuple[str, ...]
    collapsed: frozenset[str]
    planned: int | None
    fingerprint: str = ""  # of the data that trials see now; empty before the first driver that has taken it

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The one or two objectives; empty if the spec has none."""
        return objectives_of(self.spec)

    @property
    def metric(self) -> str:
        """The first objective's metric; empty if the spec has none."""
        return self.objectives[0].metric if self.objectives else ""

    @property
    def sign(self) -> int:
        """The factor that makes a higher value of the metric better."""
        return self.objectives[0].sign if self.objectives else 1

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics of the table."""
        return tuple((self.spec.get("table") or {}).get("columns") or ())

    @cached_property
    def states(self) -> Counter[str]:
        return Counter(self.runs["state"])

    @cached_property
    def knobs(self) -> tuple[Knob, ...]:
        return tuple(_knobs(self.spec, self.runs))

    @property
    def label_paths(self) -> list[str]:
        """The searched knobs in which choices differ, also those that only some have."""
        conditional = [path for path in _conditional(self.spec) if path in self.runs.columns]
        return [*(knob.path for knob in self.knobs), *conditional]

    @cached_property
    def choices(self) -> list[Choice]:
        """Best first, as `knobs.best` has it; those without an objective last."""
        choices = {choice.number: choice for choice in self._choices()}
        order = best_first({number: choice.scores for number, choice in choices.items()}, self.sign)
        return [choices[number] for number in dict.fromkeys([*order, *choices])]

    @property
    def rows(self) -> list[str]:
        """The row knobs of the table that trials have."""
        return [row for row in (self.spec.get("table") or {}).get("rows") or [] if row in self.runs.columns]

    @cached_property
    def table(self) -> Table:
        """The ablation table of the spec."""
        return make_table({self.name: self.spec}, self.runs)

    def scores(self, runs: pd.DataFrame) -> pd.Series:
        """The objective of these runs; NaN if it was not measured."""
        if self.metric not in runs.columns:
            return pd.Series(math.nan, index=runs.index, dtype="float64")
        return runs[self.metric].where(runs[self.metric].abs() < math.inf)

    def best_first(self, runs: pd.DataFrame) -> pd.DataFrame:
        """COMPLETE runs: those of the best choice first, and of each the best; those without an objective last."""
        complete = runs[runs["state"] == TrialState.COMPLETE]
        places = {choice.number: place for place, choice in enumerate(self.choices)}
        ranks = {"place": complete["choice"].map(places), "score": -self.sign * self.scores(complete)}
        unscored = self.scores(complete).isna()
        order = pd.DataFrame({"unscored": unscored, **ranks}).sort_values(["unscored", "place", "score"], kind="stable")
        return complete.loc[order.index]

    def _choices(self) -> Iterator[Choice]:
        paths = self.label_paths
        columns = [values_of(self.runs, path) for path in ("choice", *paths)]
        scores = self.scores(self.runs).where(self.runs["state"] == TrialState.COMPLETE).tolist()
        settings: dict[int, dict[str, Any]] = {}
        measured: dict[tuple[int, bool], list[float]] = defaultdict(list)
        for score, fresh, number, *values in zip(scores, is_fresh(self.runs), *columns, strict=True):
            if number is not None:
                settings.setdefault(int(number), dict(zip(paths, values, strict=True)))
                measured[int(number), fresh] += [score] if math.isfinite(score) else []
        most = {kind: max((len(measured[number, kind]) for number in settings), default=0) for kind in (False, True)}
        for number, knobs in sorted(settings.items()):
            seeds, fresh_seeds = measured[number, False], measured[number, True]
            lacking = (most[False] - len(seeds), most[True] - len(fresh_seeds))
            shown = {path: value for path, value in knobs.items() if value is not None}
            yield Choice(number, label_of(shown), knobs, Scores(seeds, fresh_seeds, *lacking))


def read_sweep(name: str, tracking_uri: str, is_driven: Callable[[str], bool] = lambda name: True) -> Sweep:
    """Read a sweep's spec and trials from MLflow. Raises NotTrackedError. is_driven: see `with_interrupted`."""
    client = store.connect(tracking_uri)
    parent = store.parent_run(client, name, tracking_uri)
    tags = [trial.tags for trial in store.trial_runs(client, name, tracking_uri)]
    commits = dict.fromkeys(each[f"{PREFIX}git_commit"] for each in tags if f"{PREFIX}git_commit" in each)
    collapsed = {each.get(f"{PREFIX}trial_id", "") for each in tags if each.get(f"{PREFIX}collapsed") == "true"}
    spec = reader.spec_of(name, tracking_uri)
    runs = with_undrawn(with_interrupted(reader.runs([name], tracking_uri), is_driven), [spec])
    searched = _planned(spec)
    return Sweep(
        name=name,
        spec=spec,
        runs=runs,
        started=pd.Timestamp(parent.info.start_time, unit="ms", tz="UTC"),
        commits=tuple(commits),
        collapsed=frozenset(collapsed),
        planned=None if searched is None else searched + _confirming(spec, runs, searched),
        fingerprint=parent.data.tags.get(f"{PREFIX}{FINGERPRINT}", ""),
    )


def label_of(knobs: Mapping[str, Any]) -> str:
    """`overlay_alpha=0.3, lr=0.1`."""
    return ", ".join(f"{display_name(path, list(knobs))}={value_text(value)}" for path, value in knobs.items())


def trial_label(sweep: Sweep, trial: pd.Series) -> str:
    """`overlay_alpha=0.3, seed 1`."""
    values = {path: plain(trial[path]) for path in sweep.label_paths}
    knobs = label_of({path: value for path, value in values.items() if value is not None})
    return f"{knobs}, seed {trial['seed']}" if knobs else f"seed {trial['seed']}"


def _confirming(spec: Mapping[str, Any], runs: pd.DataFrame, searched: int) -> int:
    """How many trials get fresh seeds; an upper bound until all trials of the search have ended."""
    confirm = (spec.get("search") or {}).get("confirm")
    if not confirm:
        return 0
    fresh = is_fresh(runs)
    seeds = len(spec["search"]["seeds"])
    own = runs[~fresh]
    complete = own.loc[own["state"] == TrialState.COMPLETE, "choice"].value_counts()
    over = int(own["state"].isin(ENDED).sum()) == searched
    choices = int((complete == seeds).sum()) if over else searched // seeds
    if confirm.get("table") and over:
        return int(fresh.sum())  # all are stored before the first one runs
    wanted: int = (choices if confirm.get("table") else min(confirm["top"], choices)) * len(confirm["seeds"])
    return max(int(fresh.sum()), wanted)


def _planned(spec: Mapping[str, Any]) -> int | None:
    """Choices times seeds, from the stored spec alone, which may be another version's."""
    search = spec.get("search") or {}
    seeds = len(search.get("seeds") or [0])
    sizes = [_size(values) for values in _space(spec).values()]
    different = None if None in sizes else math.prod(size or 0 for size in sizes)
    if search.get("sampler", "grid") == "grid":
        return None if different is None else different * seeds
    wanted = search.get("trials")
    return min(wanted, wanted if different is None else different) * seeds if wanted else None


def _size(values: Any) -> int | None:
    if isinstance(values, list):
        return len(values)
    if "choices" in values:
        sizes = [[_size(each) for each in _own(choice).values()] for choice in values["choices"]]
        return None if any(None in each for each in sizes) else sum(math.prod(size or 0 for size in s) for s in sizes)
    return len(Range.model_validate(values).listed()) if values.get("step") is not None else None


def _own(choice: Any) -> dict[str, Any]:
    """The searched knobs of one of several methods or encoders; a list of one value is fixed."""
    written = choice if isinstance(choice, Mapping) else {}
    return {
        knob: values
        for knob, values in written.items()
        if isinstance(values, Mapping) or (isinstance(values, list) and len(values) > 1)
    }


def _conditional(spec: Mapping[str, Any]) -> list[str]:
    """The knobs that only some choices have, by path."""
    paths = [
        f"{section}.{knob}"
        for section, values in _space(spec).items()
        if isinstance(values, Mapping) and "choices" in values
        for choice in values["choices"]
        for knob in _own(choice)
    ]
    return list(dict.fromkeys(paths))


def _space(spec: Mapping[str, Any]) -> dict[str, Any]:
    search = spec.get("search") or {}
    return {**({CASE: list(search["cases"])} if search.get("cases") else {}), **(search.get("space") or {})}


def _knobs(spec: Mapping[str, Any], runs: pd.DataFrame) -> Sequence[Knob]:
    space = _space(spec)
    paths = [path for path in space if path in runs.columns]
    runs = runs[runs["choice"].notna()]  # the others died before they logged their knobs
    knobs = []
    for path in paths:
        wanted = space[path]
        if isinstance(wanted, Mapping) and "choices" in wanted:
            wanted = [each if isinstance(each, str) else each["name"] for each in wanted["choices"]]
        values = [value for (value,) in dict.fromkeys(Key([value]) for value in values_of(runs, path))]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        values = sorted(values) if numeric else _in_order_of(wanted, values)
        is_range = isinstance(wanted, Mapping)
        log = numeric and (bool(wanted.get("log")) if is_range else _is_geometric(values))
        sampled = numeric and is_range and wanted.get("step") is None
        knobs.append(Knob(path, display_name(path, paths), tuple(values), numeric, log, sampled))
    return knobs


def _in_order_of(wanted: Any, values: list[Any]) -> list[Any]:
    listed = list(map(str, wanted)) if isinstance(wanted, list) else []
    return sorted(values, key=lambda value: listed.index(str(value)) if str(value) in listed else len(listed))


def _is_geometric(values: Sequence[Any]) -> bool:
    """Whether sorted numbers lie further apart on a logarithmic axis, such as 128, 256, 512, 2048."""
    if len(values) < 3 or values[0] <= 0 or values[-1] / values[0] < LOG_RATIO:
        return False
    return _narrowest([math.log(value) for value in values]) > _narrowest(values)


def _narrowest(values: Sequence[float]) -> float:
    """The smallest gap as a share of the range."""
    return min(after - before for before, after in pairwise(values)) / (values[-1] - values[0])
