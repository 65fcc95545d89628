"""A driver's study in memory: the database always has it, after few transactions and no questions."""

import math
import sqlite3
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from ssl_sweep.ledger.cached_storage import CachedStudyStorage
from ssl_sweep.ledger.database import open_storage
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump

METRIC = "knn/top1_val"


def said(trial: FrozenTrial) -> Any:
    """All of a trial but its id, which is the database's."""
    numbers = (trial.number, trial.state, trial.values, trial.intermediate_values)
    times = (trial.datetime_start, trial.datetime_complete)
    return numbers, times, trial.params, trial.distributions, trial.user_attrs, trial.system_attrs


def cached_study(url: str, objectives: int = 1) -> tuple[CachedStudyStorage, optuna.Study]:
    optuna.create_study(storage=url, study_name="sweep", directions=["maximize"] * objectives, load_if_exists=True)
    cached = CachedStudyStorage(open_storage(url), "sweep")
    return cached, optuna.load_study(study_name="sweep", storage=cached)


def check(url: str, study: optuna.Study) -> None:
    there = optuna.load_study(study_name="sweep", storage=url).trials
    assert [said(trial) for trial in study.trials] == [said(trial) for trial in there]
    again = cached_study(url)[1]
    assert [said(trial) for trial in again.trials] == [said(trial) for trial in there]


@pytest.mark.parametrize("at_once", [False, True])
def test_whatever_optuna_writes_is_in_the_database_and_is_read_back(url: str, at_once: bool) -> None:
    optuna.create_study(storage=url, study_name="another").ask()  # so that ids there are other than numbers here
    cached, study = cached_study(url, objectives=2)
    alpha, method = FloatDistribution(1e-3, 1.0, log=True), CategoricalDistribution(["byol", None, 3])
    with cached.transaction() if at_once else nullcontext():
        first, second = (study.ask({"alpha": alpha, "method": method}) for _ in range(2))
        first.set_user_attr("seed:0", {"results": {METRIC: math.pi}, "message": "é"})
        first.set_user_attr("seed:0", {"results": None})
        cached.set_trial_system_attr(second.number, "state", "of the sampler")
        cached.set_study_system_attr(study._study_id, "qmc", 3)
        study.tell(first, [0.1, -math.inf])
        study.tell(second, state=TrialState.FAIL)
        study.enqueue_trial({"alpha": 0.5, "method": None}, user_attrs={"root": 0})
        study.add_trial(create_trial(values=[1.0, 2.0], params={"alpha": 0.2}, distributions={"alpha": alpha}))
    check(url, study)
    third = study.ask({"alpha": alpha, "method": method})
    assert third.params == {"alpha": 0.5, "method": None}
    check(url, study)
    assert cached_study(url)[0].get_study_system_attrs(study._study_id) == {"qmc": 3}


def test_what_a_pruner_is_told_is_in_the_database(url: str) -> None:
    _, study = cached_study(url)
    asked = study.ask()
    for step, value in enumerate([1.0, math.inf, -math.inf, math.nan]):
        asked.report(value, step)
    there = optuna.load_study(study_name="sweep", storage=url).trials[0].intermediate_values
    assert list(map(str, there.values())) == ["1.0", "inf", "-inf", "nan"]
    study.tell(asked, state=TrialState.PRUNED)
    assert optuna.load_study(study_name="sweep", storage=url).trials[0].state == TrialState.PRUNED


def test_nothing_of_a_transaction_that_breaks_off_is_written(url: str) -> None:
    cached, study = cached_study(url)
    with suppress(KeyboardInterrupt), cached.transaction():
        study.ask()
        raise KeyboardInterrupt
    assert optuna.load_study(study_name="sweep", storage=url).trials == []


def test_what_a_full_disk_refused_is_written_with_what_follows(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, study = cached_study(url)
    asked = study.ask({"alpha": FloatDistribution(0.0, 1.0)})
    transact = cached._database.transact

    def full(write: Any) -> None:
        transact(lambda connection, again: (write(connection, again), connection.exec_driver_sql("no SQL"))[0])

    monkeypatch.setattr(cached._database, "transact", full)
    with pytest.raises(Exception, match="no SQL") as error:
        asked.set_user_attr("seed:0", "lost")
    assert isinstance(error.value.__cause__, sqlite3.OperationalError)
    with pytest.raises(Exception, match="no SQL"):
        study.ask()
    monkeypatch.undo()
    asked.set_user_attr("seed:1", "kept")
    check(url, study)
    assert len(study.trials) == 2


def test_a_trial_costs_its_ledger_three_transactions_and_no_question(url: str) -> None:
    space = {"views.overlay_alpha": {"low": 0.0, "high": 0.4}, "pretrain.lr": {"low": 0.001, "high": 1.0}}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    search = {"space": space, "sampler": "random", "trials": 20}
    ledger = open_ledger(url, from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search}))
    counts: Counter[str] = Counter()
    engine = ledger._study._storage._database.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *said: counts.update([said[2].split()[0]]))
    event.listen(engine, "commit", lambda _: counts.update(["COMMIT"]))
    while (choice := ledger.ask()) is not None:
        running = replace(choice.trials[0], state="RUNNING", attempts=1)
        ledger.update(running)
        ledger.update(replace(running, state="COMPLETE", results={METRIC: 50.0}))
    assert counts == {"COMMIT": 20 * 3, "INSERT": 20 * 4, "UPDATE": 20 * 2}
