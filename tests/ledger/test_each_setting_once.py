"""Searches over few settings: each is tried once, and the search ends when there are no others."""

from typing import Any

import pytest
from quick_sweeps import complete, search_spec

from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.reader import setting_key
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.plan import count_choices, make_plan
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.sweep.extension import extend_spec

FOUR = {"views.overlay_alpha": [0.0, 0.2], "method.temperature": [0.1, 0.5]}
METHODS = {"choices": ["byol", {"name": "simclr", "temperature": [0.1, 0.2]}, {"name": "moco", "dim": [8, 16]}]}
NODES = [{"CPU": 2.0}]


def spec(sampler: str, trials: int, space: dict[str, Any] = FOUR, **search: Any) -> SweepSpec:
    return search_spec(sampler, trials, space, **search)


def run(ledger: Ledger, count: int = 100) -> list[str]:
    """Ask and complete until the search ends; the settings that it tried, in order."""
    complete(ledger, count, lambda knobs: 50.0 + 10 * knobs.get("views.overlay_alpha", 0.0))
    return [setting_key(choice.knobs) for choice in ledger.choices]


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "qmc", "nsga2"])
@pytest.mark.parametrize("trials", [3, 4, 8])
def test_each_of_four_settings_is_tried_once(url: str, sampler: str, trials: int) -> None:
    ledger = open_ledger(url, spec(sampler, trials, seeds=2))
    settings = run(ledger)
    assert len(settings) == len(set(settings)) == min(trials, 4)
    assert (ledger.total, ledger.searched) == (2 * min(trials, 4), True)
    assert [setting_key(choice.knobs) for choice in load_ledger(url, "sweep").choices] == settings


def test_a_search_that_is_opened_again_repeats_nothing(url: str) -> None:
    for _ in range(4):
        run(open_ledger(url, spec("tpe", 8)), 1)
    ledger = open_ledger(url, spec("tpe", 8))
    assert len(set(run(ledger))) == 4
    assert ledger.ask() is None


def test_settings_of_methods_with_knobs_of_their_own_are_counted(url: str) -> None:
    space = {"method": METHODS, "views.gray": {"low": 0.0, "high": 0.3, "step": 0.1}}
    wanted = spec("tpe", 30, space)
    assert count_choices(wanted) == 5 * 4
    settings = run(open_ledger(url, wanted))
    assert len(settings) == len(set(settings)) == 20


def test_a_range_has_no_end(url: str) -> None:
    wanted = spec("random", 6, {"views.gray": {"low": 0.0, "high": 0.3}, "method.dim": [8]})
    assert count_choices(wanted) == 6
    assert len(run(open_ledger(url, wanted))) == 6


def test_a_method_without_a_range_repeats_nothing_while_lists_have_other_values(url: str) -> None:
    methods = {"choices": ["vicreg", {"name": "byol", "momentum": {"low": 0.9, "high": 0.999}}]}
    space = {"method": methods, "views.overlay_alpha": [0.0, 0.1, 0.2]}
    settings = run(open_ledger(url, spec("random", 12, space)))
    of_vicreg = [text for text in settings if "vicreg" in text]
    assert len(settings) == 12
    assert len(set(of_vicreg)) == min(3, len(of_vicreg))


def test_plan_warns(url: str) -> None:
    planned = make_plan(spec("tpe", 8), NODES)
    assert (planned.choices, planned.trials) == (4, 4)
    assert planned.warnings == ("search.trials: 8 are more than the 4 different settings: each runs once",)
    assert make_plan(spec("tpe", 4), NODES).warnings == ()


def test_an_extension_needs_settings_that_were_not_tried() -> None:
    assert count_choices(extend_spec(spec("tpe", 3), "+5", [])) == 4
    with pytest.raises(SpecError, match="there are only 4 settings"):
        extend_spec(spec("tpe", 8), "+5", [])


def test_a_ledger_of_an_earlier_version_that_repeated_settings_goes_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(Ledger, "_vary", lambda *_: None)
        earlier.setattr(Ledger, "_num_wanted", lambda _: 8)
        begun = run(open_ledger(url, spec("random", 8)), 5)
    assert len(set(begun)) < 5
    ledger = open_ledger(url, spec("random", 8))
    settings = run(ledger)
    assert settings[:5] == begun
    assert len(set(settings)) == 4
    assert len(settings) == 4 + 5 - len(set(begun))
    assert (ledger.total, ledger.searched) == (len(settings), True)


def test_a_complete_sweep_of_an_earlier_version_stays_complete(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(Ledger, "_vary", lambda *_: None)
        earlier.setattr(Ledger, "_num_wanted", lambda _: 8)
        run(open_ledger(url, spec("random", 8)))
    ledger = open_ledger(url, spec("random", 8))
    assert (len(ledger.choices), ledger.searched, ledger.total) == (8, True, 8)
    assert ledger.ask() is None
