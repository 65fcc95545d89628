"""What the next choice depends on: with some samplers on nothing, with others on the results that are known by then."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quick_sweeps import METRIC, complete, search_spec

from ssl_sweep.ledger.entries import Choice
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger

RANGES = {"views.gray": {"low": 0.0, "high": 0.5}, "method.temperature": {"low": 0.05, "high": 0.5, "log": True}}
LISTS = {"views.gray": [0.0, 0.1, 0.2], "method.temperature": [0.1, 0.2, 0.5]}
CHOICES = 13  # TPE draws the first ten at random


@pytest.fixture
def new_ledger(tmp_path: Path) -> Callable[..., Ledger]:
    """Ledgers of one spec, each in a database of its own."""
    numbers = itertools.count()

    def make(sampler: str) -> Ledger:
        space = LISTS if sampler == "grid" else RANGES
        return open_ledger(f"sqlite:///{tmp_path / f'{next(numbers)}.db'}", search_spec(sampler, CHOICES, space))

    return make


def worth(knobs: Any) -> float:
    return 100.0 - abs(float(knobs["views.gray"]) - 0.3) - abs(float(knobs["method.temperature"]) - 0.2)


def tell(ledger: Ledger, choice: Choice) -> None:
    (trial,) = choice.trials
    ledger.update(replace(trial, state="COMPLETE", attempts=1, results={METRIC: worth(choice.knobs)}))


def settings(ledger: Ledger) -> list[Any]:
    return [choice.knobs for choice in ledger.choices]


def at_a_time(ledger: Ledger, count: int, last_first: bool = False) -> list[Any]:
    """Run so many choices at a time; of those that run, the last that began ends first, or the first."""
    running: list[Choice] = []
    while True:
        while len(running) < count and (choice := ledger.ask()) is not None:
            running.append(choice)
        if not running:
            return settings(ledger)
        tell(ledger, running.pop(-1 if last_first else 0))


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc"])
def test_choices_that_no_result_decides_are_the_same_however_many_run_at_a_time(
    sampler: str, new_ledger: Callable[..., Ledger]
) -> None:
    one_by_one = at_a_time(new_ledger(sampler), 1)
    assert len(one_by_one) == (9 if sampler == "grid" else CHOICES)
    assert at_a_time(new_ledger(sampler), 2, last_first=True) == one_by_one
    assert at_a_time(new_ledger(sampler), CHOICES) == one_by_one


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2"])
def test_a_sampler_that_learns_repeats_itself_one_by_one_and_where_trials_end_in_one_order(
    sampler: str, new_ledger: Callable[..., Ledger]
) -> None:
    first = new_ledger(sampler)
    complete(first, CHOICES, worth)
    assert at_a_time(new_ledger(sampler), 1) == settings(first)
    assert at_a_time(new_ledger(sampler), 2) == at_a_time(new_ledger(sampler), 2)


def test_what_is_known_decides_tpe_and_not_the_order_in_which_it_came(new_ledger: Callable[..., Ledger]) -> None:
    drawn = []
    for order in ((0, 1, 2), (2, 0, 1)):
        ledger = new_ledger("tpe")
        complete(ledger, CHOICES - 4, worth)
        running = [ledger.ask() for _ in range(3)]
        for number in order:
            choice = running[number]
            assert choice is not None
            tell(ledger, choice)
        complete(ledger, 1, worth)
        drawn.append(settings(ledger))
    assert drawn[0] == drawn[1]


def test_tpe_chooses_otherwise_where_it_knows_other_results(new_ledger: Callable[..., Ledger]) -> None:
    assert at_a_time(new_ledger("tpe"), 1)[:10] == at_a_time(new_ledger("tpe"), 2)[:10]
    assert at_a_time(new_ledger("tpe"), 1) != at_a_time(new_ledger("tpe"), 2)
