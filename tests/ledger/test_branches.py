"""A section that is searched: each method of `search.space.method` with knobs of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from optuna.trial import TrialState

from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.spec.file import check_spec
from ssl_sweep.spec.plan import make_plan
from ssl_sweep.spec.schema import json_schema
from ssl_sweep.spec.sweep import SpecError, SweepSpec, from_dump, grid, resolve
from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.labels import NOTHING
from ssl_sweep.tables.render import grid as shown
from ssl_sweep.tracking.transcript import parameters
from ssl_sweep.trialdir.record import TrialRecord

METRIC = "knn/top1_val"
METHODS = {
    "choices": [
        "autoencoder",
        {"name": "simclr", "temperature": {"low": 0.05, "high": 0.5, "log": True}},
        {"name": "moco", "temperature": [0.1, 0.2], "queue_size": 512},
    ]
}
LISTED = {
    "choices": ["autoencoder", {"name": "simclr", "temperature": [0.1, 0.2, 0.5]}, {"name": "moco", "queue_size": 512}]
}
LR = {"low": 0.01, "high": 0.1}


def raw(**search: Any) -> dict[str, Any]:
    wanted = {"space": {"method": METHODS, "pretrain.lr": LR}, "sampler": "random", "trials": 12, **search}
    base = {"name": "sweep", "data": {"source": "digits", "image_size": 8}, "encoder": {"name": "resnet18", "width": 4}}
    return {**base, "method": {"name": "moco", "momentum": 0.9}, "evaluate": {"knn": {}}, "search": wanted}


def spec(**search: Any) -> SweepSpec:
    return from_dump(raw(**search))


def test_a_grid_expands_each_branch() -> None:
    made = spec(space={"method": LISTED, "pretrain.lr": [0.01, 0.1]}, sampler="grid")
    choices = grid(made)
    assert [tuple(choice.values()) for choice in choices] == [
        ("autoencoder", 0.01), ("autoencoder", 0.1),
        ("simclr", 0.1, 0.01), ("simclr", 0.1, 0.1), ("simclr", 0.2, 0.01), ("simclr", 0.2, 0.1),
        ("simclr", 0.5, 0.01), ("simclr", 0.5, 0.1), ("moco", 0.01), ("moco", 0.1),
    ]  # fmt: skip
    assert list(choices[2]) == ["method", "method.temperature", "pretrain.lr"]
    assert make_plan(made, [{"CPU": 2}]).pretrains == 10


def test_a_choice_has_its_branchs_knobs_and_the_files_own_method_its_values() -> None:
    made = spec()
    simclr = resolve(made, {"method": "simclr", "method.temperature": 0.3, "pretrain.lr": 0.02}, 0)
    assert simclr["method"]["name"] == "simclr"
    assert (simclr["method"]["temperature"], simclr["pretrain"]["lr"]) == (0.3, 0.02)
    moco = resolve(made, {"method": "moco", "method.temperature": 0.1, "pretrain.lr": 0.02}, 0)
    assert (moco["method"]["queue_size"], moco["method"]["momentum"], moco["method"]["temperature"]) == (512, 0.9, 0.1)
    with pytest.raises(ValueError, match=r"no value for method\.temperature"):
        resolve(made, {"method": "simclr", "pretrain.lr": 0.02}, 0)
    assert "temperature" not in resolve(made, {"method": "autoencoder", "pretrain.lr": 0.02}, 0)["method"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_spec_survives_its_dump_and_its_schema(sampler: str) -> None:
    made = spec(sampler=sampler)
    dumped = made.model_dump(mode="json")
    assert from_dump(dumped) == made
    validator = Draft202012Validator(json_schema())
    assert not list(validator.iter_errors(raw()))
    wrong = raw(space={"method": {"choices": [{"name": "simclr", "temprature": 0.1}]}})
    assert list(validator.iter_errors(wrong))


def test_a_value_that_is_a_list_stands_in_one() -> None:
    several = {"choices": [{"name": "drlim", "shifts": [[0, 2], [0, 4]]}, {"name": "simclr", "temperature": [0.3]}]}
    made = spec(space={"method": several}, sampler="grid", trials=None)
    assert [choice.get("method.shifts") for choice in grid(made)] == [[0, 2], [0, 4], None]
    assert resolve(made, grid(made)[2], 0)["method"]["temperature"] == 0.3
    fixed = spec(space={"method": {"choices": [{"name": "drlim", "shifts": [[0, 2]]}, "simclr"]}}, sampler="grid")
    assert grid(fixed) == [{"method": "drlim"}, {"method": "simclr"}]
    assert from_dump(fixed.model_dump(mode="json")) == fixed
    assert resolve(fixed, grid(fixed)[0], 0)["method"]["shifts"] == [0, 2]


def told(ledger: Ledger, number: int) -> None:
    choice = ledger.choices[number]
    temperature = choice.knobs.get("method.temperature", 1.0)
    value = 50.0 - 100 * abs(temperature - 0.2) + (10.0 if choice.knobs["method"] == "simclr" else 0.0)
    ledger.update(replace(choice.trials[0], state="COMPLETE", results={METRIC: value}))


def searched(url: str, sampler: str, reopened: bool = False, trials: int = 16) -> list[dict[str, Any]]:
    wanted = spec(sampler=sampler, trials=trials)
    ledger = open_ledger(url, wanted)
    for number in range(trials):
        ledger = open_ledger(url, wanted) if reopened else ledger
        assert ledger.ask() is not None
        told(ledger, number)
    assert load_ledger(url, "sweep").choices == ledger.choices
    return [dict(choice.knobs) for choice in ledger.choices]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_choice_has_the_knobs_of_its_method_and_no_others(tmp_path: Path, sampler: str) -> None:
    choices = searched(f"sqlite:///{tmp_path / 'a.db'}", sampler)
    assert {choice["method"] for choice in choices} == {"autoencoder", "simclr", "moco"}
    for choice in choices:
        wanted = {"method", "pretrain.lr"} | ({"method.temperature"} if choice["method"] != "autoencoder" else set())
        assert choice.keys() == wanted
        if choice["method"] == "moco":
            assert choice["method.temperature"] in (0.1, 0.2)
    assert searched(f"sqlite:///{tmp_path / 'b.db'}", sampler, reopened=True) == choices


def test_killed_before_the_branchs_knobs_were_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    wanted = spec(space={"method": {"choices": METHODS["choices"][1:]}}, trials=2)
    ledger = open_ledger(url, wanted)
    ledger._study.ask(ledger._knobs.always)  # the method is known, and nothing else
    assert load_ledger(url, "sweep").choices[0].knobs.keys() == {"method"}
    again = open_ledger(url, wanted)
    assert again.choices[0].knobs.keys() == {"method", "method.temperature"}
    assert open_ledger(url, wanted).choices == again.choices


def test_a_failed_choice_is_tried_again_with_its_knobs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = open_ledger(url, spec())
    choices = [ledger.ask() for _ in range(6)]
    choice = next(each for each in choices if "method.temperature" in each.knobs)
    ledger.update(replace(choice.trials[0], state="FAILED", reason="crash"))
    ledger.retry(ledger.choice(choice.number), [choice.trials[0].trial_id])
    assert ledger.choice(choice.number).knobs == choice.knobs
    again = open_ledger(url, spec())
    assert again.choice(choice.number).knobs == choice.knobs
    assert [each.state for each in again._study.get_trials()].count(TrialState.FAIL) == 1


def test_a_grid_runs_every_choice_once(tmp_path: Path) -> None:
    made = spec(space={"method": LISTED}, sampler="grid")
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", made)
    asked = []
    while (choice := ledger.ask()) is not None:
        asked.append(choice.knobs)
    assert asked == grid(made)


def test_another_sweep_of_the_same_methods_is_learnt_from(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    searched(url, "random")
    said: list[str] = []
    taught = from_dump({**raw(sampler="tpe", **{"from": ["sweep"]}), "name": "next"})
    ledger = open_ledger(url, taught, said.append)
    assert said == ["search.from: learns from 16 choices of sweep"]
    assert ledger.ask().knobs.keys() >= {"method", "pretrain.lr"}


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            {"space": {"method": {"choices": [{"name": "simclr", "temprature": [0.1, 0.2]}]}}},
            "method.choices[0].temprature: [0.1, 0.2]: is not a knob of simclr; did you mean 'temperature'?",
        ),
        (
            {"space": {"method": {"choices": ["simclrr"]}}},
            "search.space.method.choices[0].name: 'simclrr': there is no method 'simclrr'; did you mean 'simclr'?",
        ),
        (
            {"space": {"method": {"choices": ["moco", "moco"]}}},
            "method.choices[1]: 'moco': is there twice",
        ),
        (
            {"space": {"method": {"choices": []}}},
            "{'choices': []}: must have the choices of 'method'",
        ),
        ({"space": {"method": ["moco"]}}, "must have the choices of 'method'; write `{choices: ["),
        ({"space": {"method": {"choice": ["moco"]}}}, "must have the choices of 'method'"),
        (
            {"space": {"method": METHODS, "method.temperature": [0.1, 0.2]}},
            "search.space.method.temperature: is a knob of a section that is searched itself, as 'method' is; move it",
        ),
        (
            {"space": {"method": METHODS}, "cases": {"a": {"method": "byol"}, "b": {}}},
            "search.cases.a.method: 'byol': is set by a case, and 'method' is searched",
        ),
        ({"sampler": "gp"}, "search.sampler: 'gp': draws every choice from the same knobs"),
        ({"sampler": "nsga2"}, "use one of grid, random, tpe"),
        (
            {"sampler": "grid"},
            "method.choices[1].temperature: {'low': 0.05, 'high': 0.5, 'log': True}: is a range without a step",
        ),
        (
            {"space": {"method": {"choices": [{"name": "simclr", "temperature": {"low": 0.5, "high": 0.1}}]}}},
            "search.space.method.choices[0].temperature.low: 0.5: must be below high, 0.1",
        ),
        (
            {"space": {"method": {"choices": [{"name": "simclr", "temperature": -1}]}}},
            "search.space.method.choices[0].temperature: -1: ",
        ),
    ],
)
def test_mistakes_are_named(search: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_spec(raw(**search), ())
    assert said in str(caught.value)


def runs(made: SweepSpec) -> pd.DataFrame:
    rows = []
    for number, choice in enumerate(grid(made)):
        written = parameters(TrialRecord("t", knobs=choice, config=resolve(made, choice, 0)))
        row = {"trial_id": str(number), "sweep": "demo", "choice": number, "seed": 0, "state": "COMPLETE"}
        rows.append({**row, **written, "knn/top1_test": 50.0 + number, METRIC: 50.0 + number})
    return pd.DataFrame(rows).astype(object).where(lambda frame: frame.notna(), None)


def test_a_table_shows_nothing_where_a_row_has_no_such_knob() -> None:
    made = spec(space={"method": LISTED}, sampler="grid")
    assert made.table.rows == ("method", "method.temperature")
    table = ablation(runs(made), rows=made.table.rows, columns=["knn/top1_test"])
    lines = {line[:2] for line in shown(table).lines}
    assert lines == {
        ("autoencoder", NOTHING), ("simclr", "0.1"), ("simclr", "0.2"), ("simclr", "0.5"), ("† moco", "0.2"),
    }  # fmt: skip


def test_the_page_tells_choices_apart_by_their_own_knobs() -> None:
    made = spec(space={"method": LISTED}, sampler="grid")
    page = Sweep(
        "demo", made.model_dump(mode="json"), runs(made), pd.Timestamp("2026-01-01", tz="UTC"), (), frozenset(), None
    )
    labels = {choice.label for choice in page.choices}
    assert "method=autoencoder" in labels
    assert "method=simclr, temperature=0.5" in labels
    assert len(labels) == 5
