"""Estimates a sweep before anything runs: trials, pretrainings, epochs, and whether a trial fits the nodes."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssl_sweep.knobs import methods
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.spec.choices import num_choices, num_settings
from ssl_sweep.spec.compared import most_compared
from ssl_sweep.spec.pruning import pretrain_lengths
from ssl_sweep.spec.section import Resources
from ssl_sweep.spec.sweep import SweepSpec, grid, resolve
from ssl_sweep.spec.views import shown_views
from ssl_sweep.training.optimizers import num_epochs
from ssl_sweep.trial.stage_keys import stage_key

# {"CPU": 64, "GPU": 8}: resources of all workers when scaled up; the service sets it for the drivers that it launches
AUTOSCALE_MAX = "SSL_SWEEP_GROWS_TO"


@dataclass(frozen=True)
class Plan:
    """The size of a sweep. Without a grid, with a pruner or with `confirm`, counts are upper bounds."""

    choices: int
    seeds: int
    confirming: int  # trials with fresh seeds, included in `trials`
    trials: int
    pretrains: int
    pretrain_epochs: int  # of the pretrainings whose length is given in epochs
    pretrain_steps: int  # of the others
    evaluation_epochs: Mapping[str, int]
    concurrent: int
    views: Mapping[str, Mapping[str, Any]]  # by the methods or cases that they are of, see `shown_views`
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    at_most: bool


class _Size(NamedTuple):
    pretrains: int
    pretrain_epochs: int
    pretrain_steps: int
    evaluation_epochs: dict[str, int]

    def with_more(self, more: "_Size") -> "_Size":
        epochs = {name: epochs + more.evaluation_epochs[name] for name, epochs in self.evaluation_epochs.items()}
        pretrains, pretrain_epochs = self.pretrains + more.pretrains, self.pretrain_epochs + more.pretrain_epochs
        return _Size(pretrains, pretrain_epochs, self.pretrain_steps + more.pretrain_steps, epochs)


def count_trials(spec: SweepSpec) -> int:
    """The maximum number of trials: choices times seeds, plus the confirming trials."""
    return count_choices(spec) * len(spec.search.seeds) + _count_confirming(spec)


def make_plan(spec: SweepSpec, nodes: Sequence[Mapping[str, float]] | None = None) -> Plan:
    """Size a sweep; `nodes` are the resources of each node, [{"CPU": 8, "GPU": 2}], by default this machine's."""
    nodes = nodes or [this_machine()]
    is_grid, seeds, confirm = spec.search.sampler == "grid", len(spec.search.seeds), spec.search.confirm
    choices, trials = count_choices(spec), count_trials(spec)
    size = _of_grid(spec) if is_grid else _at_most(spec, choices, seeds)
    if confirm is not None:
        size = size.with_more(_at_most(spec, most_confirmed(spec, choices), len(confirm.seeds)))
    problems, fits = fit(spec.resources, nodes)
    return Plan(
        choices=choices,
        seeds=seeds,
        confirming=_count_confirming(spec),
        trials=trials,
        **size._asdict(),
        concurrent=min(fits, trials),
        views=shown_views(spec),
        warnings=plan_warnings(spec),
        problems=problems,
        at_most=not is_grid or spec.search.prunes_by is not None or confirm is not None,
    )


def this_machine() -> dict[str, float]:
    """CPUs and GPUs of this machine."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def count_choices(spec: SweepSpec) -> int:
    """How many choices the search tries: all of a grid, else `search.trials`, as far as there are different ones."""
    if spec.search.sampler == "grid":
        return len(grid(spec))
    wanted, different = spec.search.trials or 0, num_choices(spec.search)
    return wanted if different is None else min(wanted, different)


def plan_warnings(spec: SweepSpec) -> tuple[str, ...]:
    """What works, but is hardly meant."""
    wanted, count = spec.search.trials or 0, count_choices(spec)
    unwatched = "data.val_fraction: 0 leaves no validation images: health measures nothing, and no test score decides"
    first = () if spec.data["val_fraction"] else (unwatched,)
    if spec.search.sampler == "grid" or count == wanted:
        return first
    return (
        *first,
        f"search.trials: {wanted} are more than the {count} different settings: each runs once",
    )


def most_confirmed(spec: SweepSpec, choices: int) -> int:
    """At most so many of a number of choices run with fresh seeds."""
    confirm = spec.search.confirm
    if confirm is None:
        return 0
    return min(choices, confirm.top + (most_compared(spec, choices) if confirm.table else 0))


def _count_confirming(spec: SweepSpec) -> int:
    confirm = spec.search.confirm
    return 0 if confirm is None else most_confirmed(spec, count_choices(spec)) * len(confirm.seeds)


def pretraining(config: Mapping[str, Any]) -> str | None:
    """The key that trials with the same pretraining share; None if the method does not pretrain."""
    return stage_key(config, "pretrain", "fp32") if methods.pretrains(config["method"]["name"]) else None


def _of_grid(spec: SweepSpec) -> _Size:
    """The number of different pretrainings, their total length, and the total epochs of each evaluation."""
    seeds = spec.search.seeds
    pretrain: dict[str, Mapping[str, Any]] = {}
    evaluations: dict[str, int] = {}
    for choice in grid(spec):
        config = resolve(spec, choice, seeds[0])
        for seed in seeds:
            if (key := pretraining({**config, "seed": seed})) is not None:
                pretrain[key] = config["pretrain"]
        for name, settings in config["evaluate"].items():
            if epochs := load_evaluation(name).planned_epochs(settings):
                evaluations[name] = evaluations.get(name, 0) + epochs * len(seeds)
    epochs = sum(num_epochs(each) for each in pretrain.values() if each["steps"] is None)
    return _Size(len(pretrain), epochs, sum(each["steps"] or 0 for each in pretrain.values()), evaluations)


def _at_most(spec: SweepSpec, choices: int, seeds: int) -> _Size:
    """Upper bounds for choices that are not known yet: all pretrainings differ, and each is as long as can be."""
    decide = [values for path, values in spec.search.space.items() if not path.startswith("evaluate.")]
    listed = [num_settings(values) or math.inf for values in decide]
    pretrains = int(min(choices, math.prod(listed) * (len(spec.search.cases) or 1))) * seeds
    if not (spec.search.cases or spec.search.branches) and not methods.pretrains(spec.method["name"]):
        pretrains = 0
    lengths = pretrain_lengths(spec.search, spec.pretrain)
    most_epochs = max((num_epochs(each) for each in lengths if each["steps"] is None), default=0)
    most_steps = max(each["steps"] or 0 for each in lengths)
    planned = {
        name: load_evaluation(name).planned_epochs(spec.search.at_highest(f"evaluate.{name}", settings))
        for name, settings in spec.evaluate.items()
    }
    epochs = {name: trial_epochs * choices * seeds for name, trial_epochs in planned.items() if trial_epochs}
    return _Size(pretrains, most_epochs * pretrains, most_steps * pretrains, epochs)


def fit(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> tuple[tuple[str, ...], int]:
    """The resources that a trial lacks on these nodes, and how many trials run at once."""
    workers = resources.workers
    per_worker = {name: amount for name, amount in (("CPU", resources.cpus), ("GPU", resources.gpus)) if amount}
    there = {name: sum(node.get(name, 0) for node in nodes) for name in per_worker}
    keys = " x resources.workers" if workers > 1 else ""
    problems = tuple(
        f"a trial wants {workers * amount:g} {name} (resources.{name.lower()}s{keys}), there are {there[name]:g}"
        for name, amount in per_worker.items()
        if workers * amount > there[name]
    )
    # a worker runs on one node; 1e-9: rounding must not cost one of ten workers with 0.1 GPU each
    room = sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in per_worker.items()) for node in nodes)
    if not problems and room < workers:
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in per_worker.items())
        problems = (
            f"a trial wants {workers} x {wanted} (resources), each on one node, there is room for {room}: nodes have "
            + ", ".join(_listed(node, per_worker) for node in nodes),
        )
    limit = resources.max_concurrent
    return problems, min([room // workers, *([limit] if limit else [])])


def _listed(node: Mapping[str, float], names: Iterable[str]) -> str:
    return " and ".join(f"{node.get(name, 0):g} {name}" for name in names)
