"""A sweep grows: more choices, wider ranges; what else a spec says stays as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SpecError, SweepSpec, from_dump
from ssl_sweep.sweep.extension import extend_spec

SPACE = {
    "views.overlay_alpha": {"low": 0.1, "high": 0.2},
    "pretrain.optimizer": ["sgd", "adamw"],
    "pretrain.epochs": {"low": 2, "high": 6, "step": 2},
}


def spec(**search: Any) -> SweepSpec:
    searched = {"space": SPACE, "sampler": "tpe", "trials": 4, **search}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": searched})


def test_more_choices_from_a_wider_range_in_the_same_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = open_ledger(url, spec())
    for value in range(3):
        trial = ledger.ask().trials[0]  # type: ignore[union-attr]
        ledger.update(replace(trial, state="COMPLETE", results={"knn/top1_val": float(value)}))
    ledger.ask()  # one is open
    before = [choice.knobs for choice in ledger.choices]
    more = extend_spec(spec(), "+15", ["search.space.views.overlay_alpha={low: 0.0, high: 0.4}"])
    with pytest.raises(LedgerError, match="ssl-sweep extend sweep"):
        open_ledger(url, more)
    grown = open_ledger(url, more, extends=True)
    assert [choice.knobs for choice in grown.choices] == before
    asked = []
    while (choice := grown.ask()) is not None:
        asked.append(choice.knobs["views.overlay_alpha"])
        grown.update(replace(choice.trials[0], state="COMPLETE", results={"knn/top1_val": 1.0}))
    assert len(asked) == 15
    assert min(asked) < 0.1 or max(asked) > 0.2
    assert load_ledger(url, "sweep").spec.search.trials == 19


def alphas(ledger: Ledger, best: float) -> list[float]:
    """What a search for one value of a knob asks for until it has enough."""
    asked = []
    while (choice := ledger.ask()) is not None:
        asked.append(choice.knobs["views.overlay_alpha"])
        ledger.update(replace(choice.trials[0], state="COMPLETE", results={"knn/top1_val": -abs(asked[-1] - best)}))
    return asked


def widened(url: str, **search: Any) -> Ledger:
    """A search that knew a narrow range for 14 choices, and has 12 more to ask for in a wider one."""
    lr = {"low": 0.001, "high": 1.0, "log": True}
    first = spec(space={"views.overlay_alpha": SPACE["views.overlay_alpha"], "pretrain.lr": lr}, trials=14, **search)
    alphas(open_ledger(url, first), best=0.15)
    more = extend_spec(first, "+12", ["search.space.views.overlay_alpha={low: 0.0, high: 0.4}"])
    return open_ledger(url, more, extends=True)


def test_gp_goes_on_with_a_widened_knob_as_it_has_learned(tmp_path: Path) -> None:
    asked = alphas(widened(f"sqlite:///{tmp_path / 'ledger.db'}", sampler="gp"), best=0.15)
    assert max(abs(alpha - 0.15) for alpha in asked[-4:]) < 0.02  # at random, 0.1 on average
    assert max(asked) > 0.2


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_a_widened_knob_stays_in_the_samplers_model(tmp_path: Path, sampler: str) -> None:
    ledger = widened(f"sqlite:///{tmp_path / 'ledger.db'}", sampler=sampler)
    for _ in range(2):  # the first of the wider range is the one that told Optuna's samplers
        alpha = ledger.ask()
        complete = replace(alpha.trials[0], state="COMPLETE", results={"knn/top1_val": 1.0})  # type: ignore[union-attr]
        ledger.update(complete)
    modelled = ledger._study.sampler.infer_relative_search_space(ledger._study, ledger._study.trials[-1])
    assert modelled["views.overlay_alpha"] == FloatDistribution(0.0, 0.4)


def test_a_widened_knob_beside_branches_leaves_its_old_range(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    method = {"choices": ["autoencoder", {"name": "simclr", "temperature": [0.1, 0.2]}]}
    first = spec(space={"views.overlay_alpha": SPACE["views.overlay_alpha"], "method": method}, trials=12)
    alphas(open_ledger(url, first), best=0.2)
    more = extend_spec(first, "+10", ["search.space.views.overlay_alpha={low: 0.0, high: 0.4}"])
    asked = alphas(open_ledger(url, more, extends=True), best=0.4)
    assert max(asked) > 0.2


@pytest.mark.parametrize(("trials", "total"), [("+20", 24), ("20", 20)])
def test_trials_are_counted_on_or_in_all(trials: str, total: int) -> None:
    assert extend_spec(spec(), trials, []).search.trials == total


@pytest.mark.parametrize(
    ("trials", "overrides", "said"),
    [
        ("3", [], "4 choices exist already; ask for more"),
        ("some", [], "'some': is no number of choices; write --choices"),
        (
            "+1",
            ["search.space.views.overlay_alpha={low: 0.15, high: 0.4}"],
            "search.space.views.overlay_alpha.low: cannot change",
        ),
        ("+1", ["search.space.pretrain.optimizer=[sgd, adamw, lars]"], "pretrain.optimizer: cannot change"),
        ("+1", ["search.space.pretrain.optimizer=[sgd]"], "search.from"),
        ("+1", ["search.space.pretrain.epochs={low: 1, high: 7, step: 2}"], "search.space.pretrain.epochs"),
        ("+1", ["pretrain.lr=0.5"], "pretrain.lr: cannot change in a sweep that exists"),
        ("+1", ["pretrain.learning=0.5"], "is not a knob|is not a key"),
    ],
)
def test_what_is_no_extension_is_refused_with_a_remedy(trials: str, overrides: list[str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        extend_spec(spec(), trials, overrides)


def test_cmaes_goes_on_in_the_range_it_began_with() -> None:
    space = {"views.overlay_alpha": {"low": 0.1, "high": 0.4}, "pretrain.lr": {"low": 0.1, "high": 0.4}}
    with pytest.raises(SpecError, match=r"cmaes knows only the range it began with; .*search\.from"):
        extend_spec(spec(space=space, sampler="cmaes"), "+5", ["search.space.pretrain.lr={low: 0.1, high: 0.5}"])


def test_a_grid_has_all_its_choices() -> None:
    grid = spec(space={"views.overlay_alpha": [0.0, 0.1]}, sampler="grid", trials=None)
    with pytest.raises(SpecError, match=r"search\.sampler: 'grid': has all its choices already; run a new sweep"):
        extend_spec(grid, "+5", [])
