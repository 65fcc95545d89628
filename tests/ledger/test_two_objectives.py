"""Accuracy against cost: what a trial costs, what a search for both remembers, and what tables and the page show."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.models import resnet18, resnet50, vit_b_16

from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.cost import costs
from ssl_sweep.knobs.objective import COSTS, COSTS_BY_STEPS
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.report.front import front_plot
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.spec.sweep import SpecError, SweepSpec, from_dump, resolve
from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.labels import FRONT
from ssl_sweep.tables.pareto import on_front
from ssl_sweep.tables.render import grid, render
from ssl_sweep.trial import attempt
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.record import TrialRecord

ACCURACY, COST = "knn/top1_val", "cost/million_parameters"
TWO = [f"maximize {ACCURACY}", f"minimize {COST}"]
WIDTH, ALPHA = "encoder.width", "views.overlay_alpha"
SPACE = {WIDTH: [4, 8, 16, 32, 64], ALPHA: {"low": 0.0, "high": 0.4}}


def spec(**search: Any) -> SweepSpec:
    wanted = {"space": SPACE, "sampler": "nsga2", "trials": 24, "objective": TWO, **search}
    base = {"name": "sweep", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18"}
    return from_dump({**base, "method": "autoencoder", "evaluate": {"knn": {}}, "search": wanted})


def config(name: str, image_size: int = 224, method: str = "simclr", epochs: int = 10) -> dict[str, Any]:
    settings = {"name": name, **knobs.check(knobs.load("encoders", name), {}, name)}
    return {
        "encoder": settings,
        "data": {"image_size": image_size},
        "method": {"name": method},
        "pretrain": {"epochs": epochs},
    }


@pytest.mark.parametrize(
    ("name", "known", "gmacs"),  # the multiply-adds that torchvision gives for its weights
    [("resnet18", resnet18, 1.814), ("resnet50", resnet50, 4.089), ("vit_base", vit_b_16, 17.564)],
)
def test_costs_are_those_of_the_known_architectures(name: str, known: Any, gmacs: float) -> None:
    with torch.device("meta"):
        theirs = known()
    head = theirs.fc if hasattr(theirs, "fc") else theirs.heads
    parameters = sum(each.numel() for each in theirs.parameters()) - sum(each.numel() for each in head.parameters())
    found = costs(config(name))
    assert found[COST] == pytest.approx(parameters / 1e6, rel=0.01)
    assert found["cost/gmacs"] == pytest.approx(gmacs, rel=0.005)
    assert found["cost/pretrain_gmacs"] == 10 * found["cost/gmacs"]


def test_what_does_not_pretrain_has_no_cost_of_it() -> None:
    found = costs(config("resnet18", method="supervised"))
    assert (found["cost/pretrain_epochs"], found["cost/pretrain_gmacs"]) == (0, 0)
    assert costs(config("pixels"))[COST] == 0


def test_costs_depend_on_nothing_but_the_config() -> None:
    state = torch.random.get_rng_state()
    assert costs(config("vit_tiny", 32)) == costs(config("vit_tiny", 32))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_trial_measures_its_cost_where_the_search_goes_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt.trial, "run", lambda *_, **__: {ACCURACY: 50.0})
    record = TrialRecord("t", config=resolve(spec(), {WIDTH: 8, ALPHA: 0.1}, 0))
    outcome = attempt.attempt(record, 1, lambda *_: None, tmp_path / "t", tmp_path, objectives=[ACCURACY, COST])
    known = {*COSTS} - {*COSTS_BY_STEPS}  # its pretraining has its length in epochs
    assert outcome.results.keys() == {ACCURACY, *known}
    reports = [event.metrics for event in read(tmp_path / "t")[0] if event.name == "report"]
    assert reports == [{name: outcome.results[name] for name in known}]
    plain = attempt.attempt(record, 1, lambda *_: None, tmp_path / "u", tmp_path, objectives=[ACCURACY])
    assert plain.results == {ACCURACY: 50.0}


def test_the_front_is_what_no_point_beats() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(map(float, point)) for point in rng.integers(0, 6, size=(12, 2))]
        beaten = [any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points]
        assert on_front(points) == [not each for each in beaten]
    assert on_front([]) == []


def searched(url: str, sampler: str, reopened: bool = False, trials: int = 24) -> Ledger:
    """A search in which a wider encoder is better and costs more, and an alpha of 0.2 is best."""
    wanted = spec(sampler=sampler, trials=trials)
    ledger = open_ledger(url, wanted)
    for number in range(trials):
        if reopened:
            ledger = open_ledger(url, wanted)
        choice = ledger.ask()
        width, alpha = choice.knobs[WIDTH], choice.knobs[ALPHA]
        results = {ACCURACY: 10 * math.log2(width) - 100 * (alpha - 0.2) ** 2, COST: width**2 / 100}
        state = "FAILED" if number % 7 == 3 else "COMPLETE"
        ledger.update(replace(choice.trials[0], state=state, results=results if state == "COMPLETE" else None))
    return ledger


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "gp", "random", "qmc"])
def test_a_resumed_search_for_two_objectives_is_the_unbroken_one(tmp_path: Path, sampler: str) -> None:
    unbroken = searched(f"sqlite:///{tmp_path / 'a.db'}", sampler, trials=14)
    again = searched(f"sqlite:///{tmp_path / 'b.db'}", sampler, reopened=True, trials=14)
    assert [choice.knobs for choice in again.choices] == [choice.knobs for choice in unbroken.choices]
    told = [frozen for frozen in again._study.get_trials() if frozen.values]
    assert [frozen.values for frozen in told] == [
        [choice.trials[0].results[ACCURACY], choice.trials[0].results[COST]]
        for choice in again.choices
        if choice.trials[0].results
    ]


def test_nsga2_learns(tmp_path: Path) -> None:
    ledger = searched(f"sqlite:///{tmp_path / 'ledger.db'}", "nsga2", trials=80)
    misses = [abs(choice.knobs[ALPHA] - 0.2) for choice in ledger.choices]
    assert np.mean(misses[40:]) < 0.06  # by chance 0.1
    assert len({tuple(choice.knobs.values()) for choice in ledger.choices}) > 70
    assert len({choice.knobs[WIDTH] for choice in ledger.choices[40:]}) > 1  # a front, not a point


def test_the_front_is_confirmed_first(tmp_path: Path) -> None:
    wanted = spec(sampler="random", trials=4, confirm={"top": 3, "seeds": 1})
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", wanted)
    for accuracy, cost in ((90.0, 9.0), (89.0, 9.5), (50.0, 1.0), (70.0, 9.0)):
        trial = ledger.ask().trials[0]
        ledger.update(replace(trial, state="COMPLETE", results={ACCURACY: accuracy, COST: cost}))
    assert [trial.choice for trial in ledger.confirm()] == [0, 2, 1]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"objective": [TWO[0]]}, "search.objective: ['maximize knn/top1_val']: must be one objective or two; write"),
        ({"objective": [TWO[0], ""]}, "must be one objective or two"),
        (
            {"objective": [TWO[0], TWO[0]]},
            "search.objective[1]: 'maximize knn/top1_val': is the first objective's metric",
        ),
        ({"objective": [TWO[0], "minimize cost/milion_parameters"]}, "did you mean 'cost/million_parameters'?"),
        ({"objective": [TWO[0], "minimise cost/gmacs"]}, "must be `maximize METRIC` or `minimize METRIC`"),
        ({"objective": ["maximize knn/top1_test", TWO[1]]}, "search.objective[0]"),
        ({"sampler": "cmaes", "space": {ALPHA: SPACE[ALPHA]}}, "follows one objective, not two; use `sampler: nsga2`"),
        ({"pruner": "asha"}, "search.pruner: 'asha': judges by one objective"),
        ({"from": ["other"]}, "has no effect, as sampler 'nsga2' does not learn"),
    ],
)
def test_mistakes_are_named(search: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**search)
    assert said in str(caught.value)


def test_the_spec_survives_its_dump() -> None:
    made = spec()
    assert from_dump(made.model_dump(mode="json")) == made
    assert made.search.objective == tuple(TWO)
    assert [str(objective) for objective in made.search.objectives] == TWO
    assert made.search.metrics == (ACCURACY, COST)
    assert COST in made.table.columns
    assert spec(objective=TWO[0]).table.columns == ("knn/top1_test",)


POINTS = {4: (60.0, 1.0), 8: (70.0, 2.0), 16: (65.0, 3.0), 32: (70.0, 9.0)}


def runs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trial_id": f"{width}-{seed}", "sweep": "demo", "choice": choice, "seed": seed, "state": "COMPLETE",
            WIDTH: width, ACCURACY: accuracy + aside, COST: cost,
        }
        for choice, (width, (accuracy, cost)) in enumerate(POINTS.items())
        for seed, aside in enumerate((-1.0, 1.0))
    )  # fmt: skip


def test_a_table_marks_the_rows_on_the_front() -> None:
    table = ablation(runs(), rows=[WIDTH], columns=[ACCURACY, COST], objective=TWO)
    assert table.front == {(4,), (8,)}
    assert [line[-1] for line in grid(table).lines] == [FRONT, FRONT, "", ""]
    assert grid(table).headers[-1] == "front"
    assert [cell.best for row in table.body for cell in row.cells[1:]] == [True, False, False, False]
    assert any(note.startswith(f"{FRONT}: on the Pareto front") and "search's means" in note for note in table.notes)
    assert r"$\bullet$" in render(table, "tex")
    assert [line.split(",")[-2] for line in render(table, "csv").splitlines()[::2]] == [
        "front", "True", "True", "False", "False",
    ]  # fmt: skip
    one = ablation(runs(), rows=[WIDTH], columns=[ACCURACY], objective=TWO[0])
    assert one.front is None
    assert grid(one).headers[-1] != "front"


def test_fresh_seeds_confirm_the_accuracy_and_leave_cost_and_front_alone() -> None:
    found = runs()
    fresh = found[found["choice"] == 1].assign(seed=[2, 3], confirms=True, **{ACCURACY: 50.0})
    both = pd.concat([found.assign(confirms=False), fresh], ignore_index=True)
    table = ablation(both, rows=[WIDTH], columns=[ACCURACY, COST], objective=TWO)
    assert table.has_confirmed == (True, False)
    assert table.front == {(4,), (8,)}  # by figures of one kind: the other rows have no fresh ones


def test_the_page_draws_the_front() -> None:
    found = {"space": {WIDTH: list(POINTS)}, "objective": TWO}
    page = Sweep("demo", {"search": found}, runs(), pd.Timestamp("2026-01-01", tz="UTC"), (), frozenset(), None)
    plot = front_plot(page)
    beaten, front = plot.data
    assert list(zip(front["x"], front["y"], strict=True)) == [(1.0, 60.0), (2.0, 70.0)]
    assert list(zip(beaten["x"], beaten["y"], strict=True)) == [(3.0, 65.0), (9.0, 70.0)]
    assert front["text"] == ["width=4", "width=8"]
    found["objective"] = TWO[0]
    assert front_plot(page) is None
