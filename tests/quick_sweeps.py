"""Sweeps of seconds: one that trains, one whose trials a test plays, and searches of which only the ledger runs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump

METRIC = "knn/top1_val"
DIGITS = {"source": "digits", "image_size": 8}
# a name and a search are a test's to add
TRAINED: dict[str, Any] = {
    "data": DIGITS,
    "encoder": {"name": "resnet18", "width": 4},
    "method": "autoencoder",
    "precision": "fp32",
    "pretrain": {"epochs": 1},
    "evaluate": {"knn": {}},
    "tracking": {"models": "none"},
}
PLAYED: dict[str, Any] = {"data": DIGITS, "encoder": "resnet18", "method": "autoencoder", "evaluate": {"knn": {}}}


class Silent:
    """An observer that wants to know nothing."""

    def started(self, *_: Any) -> None: ...
    def reported(self, *_: Any) -> None: ...
    def ended(self, *_: Any) -> None: ...


def search_spec(sampler: str, trials: int, space: Mapping[str, Any], **search: Any) -> SweepSpec:
    """A sweep `sweep` of SimCLR whose search takes so many choices."""
    wanted = {"space": space, "sampler": sampler, "trials": trials, **search}
    return from_dump({"name": "sweep", **PLAYED, "method": "simclr", "search": wanted})


def complete(ledger: Ledger, count: int, value: Callable[[Mapping[str, Any]], float]) -> int:
    """Ask for so many choices, or as many as there are, and complete them; returns their number.

    value: the objective, from a choice's knobs.
    """
    for done in range(count):
        choice = ledger.ask()
        if choice is None:
            return done
        for trial in choice.trials:
            ledger.update(replace(trial, state="COMPLETE", attempts=1, results={METRIC: value(choice.knobs)}))
    return count
