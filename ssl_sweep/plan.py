"""What a spec will cost, before anything runs: trials, pretrainings, epochs, images, and whether a trial fits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssl_sweep import knobs
from ssl_sweep.spec import SweepSpec, grid, resolve
from ssl_sweep.trial import stage_key


@dataclass(frozen=True)
class Plan:
    """The size of a sweep. Counts of a sampler that is not a grid are upper bounds."""

    choices: int
    seeds: int
    trials: int
    pretrains: int
    pretrain_epochs: int
    evaluation_epochs: Mapping[str, int]
    concurrent: int
    problems: tuple[str, ...]


def count_trials(spec: SweepSpec) -> int:
    """Choices times seeds."""
    choices = len(grid(spec)) if spec.search.sampler == "grid" else spec.search.trials or 0
    return choices * len(spec.search.seeds)


def make_plan(spec: SweepSpec, available: Mapping[str, float] | None = None) -> Plan:
    """Size a sweep; `available` is what the cluster has, {"CPU": 8, "GPU": 2}, by default what this machine has."""
    available = available or this_machine()
    trials = count_trials(spec)
    pretrains, pretrain_epochs = _pretrains(spec, trials)
    epochs = {name: settings["epochs"] * trials for name, settings in spec.evaluate.items() if "epochs" in settings}
    problems, fits = _fit(spec, available)
    return Plan(
        choices=trials // len(spec.search.seeds),
        seeds=len(spec.search.seeds),
        trials=trials,
        pretrains=pretrains,
        pretrain_epochs=pretrain_epochs,
        evaluation_epochs=epochs,
        concurrent=min(fits, trials),
        problems=problems,
    )


def this_machine() -> dict[str, float]:
    """CPUs and GPUs of this machine."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _pretrains(spec: SweepSpec, trials: int) -> tuple[int, int]:
    """How many different pretrainings there are, and their epochs together."""
    if spec.search.sampler != "grid":
        return trials, trials * spec.pretrain["epochs"]
    epochs: dict[str, int] = {}
    for choice in grid(spec):
        for seed in spec.search.seeds:
            config = resolve(spec, choice, seed)
            if _pretrained(config):
                epochs[stage_key(config, "pretrain", "fp32")] = config["pretrain"]["epochs"]
    return len(epochs), sum(epochs.values())


def _pretrained(config: Mapping[str, Any]) -> bool:
    return bool(getattr(knobs.load("methods", config["method"]["name"]), "pretrains", True))


def _fit(spec: SweepSpec, available: Mapping[str, float]) -> tuple[tuple[str, ...], int]:
    """What a trial lacks here, and how many run at once."""
    wanted = {"CPU": spec.resources.cpus, "GPU": spec.resources.gpus}
    problems = tuple(
        f"a trial wants {amount:g} {name} (resources.{name.lower()}s), there are {available.get(name, 0):g}"
        for name, amount in wanted.items()
        if amount > available.get(name, 0)
    )
    if spec.resources.workers > 1:
        problems += (f"resources.workers is {spec.resources.workers}, and a trial can have 1 so far",)
    slots = [int(available.get(name, 0) / amount) for name, amount in wanted.items() if amount]
    limit = spec.resources.max_concurrent
    return problems, min([*slots, *([limit] if limit else [])], default=1)
