"""What a new sweep learns from earlier ones in the same ledger."""

from dataclasses import replace
from typing import Any

import optuna
import pytest

from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump

METRIC = "knn/top1_val"
ALPHA = {"views.overlay_alpha": {"low": 0.0, "high": 0.4}}


def spec(name: str, space: dict[str, Any] | None = None, **search: Any) -> SweepSpec:
    wanted = {"space": space or ALPHA, "sampler": "random", "trials": 40, **search}
    base = {"name": name, "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump(base | {"evaluate": {"knn": {}, "finetune": {"epochs": 1}}, "search": wanted})


def run(ledger: Ledger, choices: int) -> list[float]:
    """So many choices, best at alpha 0.3; the alphas that were tried."""
    tried = []
    for _ in range(choices):
        choice = ledger.ask()
        tried.append(choice.knobs.get("views.overlay_alpha", 0.0))
        score = 50.0 - 100 * (tried[-1] - 0.3) ** 2
        for trial in choice.trials:
            results = {METRIC: score + trial.seed, "finetune/top1_val": 2 * score}
            ledger.update(replace(trial, state="COMPLETE", attempts=1, results=results))
    return tried


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_sampler_begins_where_the_earlier_sweep_ended(url: str, sampler: str) -> None:
    run(open_ledger(url, spec("old")), 30)
    said: list[str] = []
    ledger = open_ledger(url, spec("new", sampler=sampler, trials=8, **{"from": ["old"]}), said.append)
    assert said == ["search.from: learns from 30 choices of old"]
    assert ledger.choices == []
    tried = run(ledger, 8)
    assert sum(abs(alpha - 0.3) < 0.1 for alpha in tried) >= 6  # half of the space is as near by chance
    assert ledger.ask() is None  # its own trials are counted, not those it learnt from
    assert len(ledger.choices) == 8


def test_what_does_not_fit_is_counted(url: str) -> None:
    run(open_ledger(url, spec("fits", trials=2)), 2)
    run(open_ledger(url, spec("wider", {"views.overlay_alpha": [0.1, 0.45]}, sampler="grid", trials=None)), 2)
    run(open_ledger(url, spec("other", {**ALPHA, "pretrain.lr": [0.1]}, trials=3)), 3)
    unfinished = open_ledger(url, spec("unfinished", trials=3))
    run(unfinished, 1)
    unfinished.ask()
    failed = unfinished.ask().trials[0]
    unfinished.update(replace(failed, state="FAILED", reason="crash"))
    said: list[str] = []
    names = ["fits", "wider", "other", "unfinished"]
    wanted = spec("new", sampler="tpe", objective="maximize finetune/top1_val", **{"from": names})
    ledger = open_ledger(url, wanted, said.append)
    left_out = "left out: 1 out of range, 3 with other knobs"
    assert said == [f"search.from: learns from 4 choices of fits, wider, other, unfinished; {left_out}"]
    study = optuna.load_study(study_name="new", storage=url)
    marks = [trial.user_attrs["from"] for trial in study.trials]
    assert marks == ["fits/0", "fits/1", "wider/0", "unfinished/0"]
    alpha = study.trials[0].params["views.overlay_alpha"]
    assert study.trials[0].value == pytest.approx(2 * (50.0 - 100 * (alpha - 0.3) ** 2))  # this sweep's objective
    assert ledger.trials == []


def test_it_learns_once_and_goes_on_after_a_kill_in_the_middle(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = open_ledger(url, spec("old", trials=9))
    run(old, 5)
    wanted = spec("new", sampler="tpe", **{"from": ["old"]})

    def killed(study: optuna.Study, trials: list[optuna.trial.FrozenTrial]) -> None:
        study.add_trial(trials[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.Study, "add_trials", killed)
    with pytest.raises(KeyboardInterrupt):
        open_ledger(url, wanted)
    monkeypatch.undo()
    ledger = open_ledger(url, wanted)
    run(ledger, 2)
    run(old, 3)
    said: list[str] = []
    again = open_ledger(url, wanted, said.append)
    assert said == []
    assert again.choices == ledger.choices
    assert len(optuna.load_study(study_name="new", storage=url).trials) == 5 + 2


def test_a_sweep_that_is_not_there_is_named_and_nothing_is_made(url: str) -> None:
    open_ledger(url, spec("old"))
    with pytest.raises(LedgerError, match=r"search\.from: no sweep named 'odl' here; there is old"):
        open_ledger(url, spec("new", sampler="gp", **{"from": ["odl"]}))
    assert optuna.get_all_study_names(url) == ["old"]


def test_cmaes_wants_ten(url: str) -> None:
    run(open_ledger(url, spec("old", trials=9)), 9)
    with pytest.raises(LedgerError, match=r"learns from 9 choices of old; sampler cmaes .* needs 10: use tpe or gp"):
        open_ledger(url, spec("new", sampler="cmaes", **{"from": ["old"]}))


def test_wilcoxon_compares_with_the_seeds_of_the_earlier_best(url: str) -> None:
    run(open_ledger(url, spec("old", trials=3, seeds=5)), 3)
    ledger = open_ledger(url, spec("new", sampler="tpe", seeds=5, pruner="wilcoxon", **{"from": ["old"]}))
    choice = ledger.ask()
    for trial in choice.trials[:4]:
        ledger.update(replace(trial, state="COMPLETE", results={METRIC: 1.0 + trial.seed + 0.1 * trial.seed**2}))
    assert [trial.state for trial in ledger.choice(choice.number).trials][-1] == "PRUNED"
