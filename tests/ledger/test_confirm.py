"""What the search found best runs again with fresh seeds: in the ledger, in tables, and in what is called best."""

import io
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest
import scipy.stats
from quick_sweeps import Silent
from rich.console import Console

from ssl_sweep.cluster.scheduler import Idle, Launch, LedgerScheduler
from ssl_sweep.commands.terminal import plan_table, status_table
from ssl_sweep.ledger.entries import Choice, LedgerError, Trial
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.report import summary
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.spec.plan import make_plan
from ssl_sweep.spec.sweep import SpecError, SweepSpec, from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep import steering
from ssl_sweep.sweep.best import best_trial, select_trial
from ssl_sweep.sweep.extension import extend_spec
from ssl_sweep.sweep.status import sweep_status
from ssl_sweep.sweep.steering import ResumeSelection
from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.labels import NOTHING
from ssl_sweep.tables.render import grid, render
from ssl_sweep.tables.table import Table
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trialdir.events import TagsSet
from ssl_sweep.trialdir.journal import Journal

METRIC, TEST = "knn/top1_val", "knn/top1_test"
ALPHA = "views.overlay_alpha"


def spec(**search: Any) -> SweepSpec:
    """Four choices by two seeds, of which the best two are confirmed with three seeds."""
    confirm = {"top": 2, "seeds": 3}
    wanted = {"space": {ALPHA: [0.0, 0.1, 0.2, 0.3]}, "seeds": 2, "sampler": "grid", "confirm": confirm, **search}
    base = {"name": "sweep", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18"}
    return from_dump({**base, "method": "autoencoder", "evaluate": {"knn": {}}, "search": wanted})


def complete(ledger: Ledger, trial: Trial, value: float) -> None:
    ledger.update(replace(trial, state="COMPLETE", attempts=1, results={METRIC: value}))


def searched(ledger: Ledger, means: list[float]) -> None:
    """Run the search: each choice gets a mean, its seeds one more and one less."""
    while (choice := ledger.ask()) is not None:
        for trial, aside in zip(choice.trials, (1.0, -1.0), strict=True):
            complete(ledger, trial, means[choice.number] + aside)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path)


def test_the_best_are_confirmed_once_the_search_is_over_with_seeds_that_it_did_not_use(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    first = ledger.ask()
    assert ledger.confirm() == []
    assert ledger.total == 8 + 6
    for trial in first.trials:
        complete(ledger, trial, 50.0)
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    fresh = ledger.confirm()
    assert [(trial.choice, trial.seed) for trial in fresh] == [(1, 2), (1, 3), (1, 4), (3, 2), (3, 3), (3, 4)]
    assert all(trial.confirms for trial in fresh)
    assert ledger.confirm() == []
    assert len({trial.trial_id for trial in ledger.trials}) == 14


def test_a_minimised_objective_confirms_the_lowest(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec(objective=f"minimize {METRIC}"))
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    assert {trial.choice for trial in ledger.confirm()} == {2, 0}


def test_the_sampler_learns_nothing_from_fresh_seeds(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    for trial in ledger.confirm():
        complete(ledger, trial, 0.0)
    told = ledger._study.get_trials()
    assert [trial.value for trial in told] == [50.0, 60.0, 40.0, 55.0]
    assert ledger.choice(1).means([METRIC]) == (60.0,)
    assert ledger.choice(1).confirmed(METRIC) == 0.0


def test_a_choice_that_lacks_a_seed_is_not_confirmed(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    choice = ledger.ask()
    complete(ledger, choice.trials[0], 99.0)
    ledger.update(replace(choice.trials[1], state="FAILED", reason="diverged"))
    searched(ledger, [0.0, 60.0, 40.0, 55.0])
    assert {trial.choice for trial in ledger.confirm()} == {1, 3}
    assert ledger.total == len(ledger.trials) == 14


def test_confirming_goes_on_where_the_driver_died(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    first, second, *_ = ledger.confirm()
    complete(ledger, first, 58.0)
    ledger.update(replace(second, state="RUNNING", attempts=1))
    again = open_ledger(storage.ledger_url, spec())
    assert again.trials == ledger.trials
    assert again.confirm() == []
    due = [trial for choice in again.choices for trial in again.due(choice)]
    assert len(due) == 5
    assert due[0].state == "RUNNING"
    assert load_ledger(storage.ledger_url, "sweep").trials == ledger.trials


def test_a_failed_fresh_seed_is_taken_up_again_and_the_choice_told_once(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    for trial in ledger.confirm():
        ledger.update(replace(trial, state="FAILED", attempts=3, failures=3, reason="crash"))
    only = steering.prepare_resume(ledger, ResumeSelection(failed=True), ledger.notes.read())
    fresh = [trial for choice in ledger.choices for trial in choice.confirming]
    assert only == {trial.trial_id for trial in fresh}
    assert {(trial.state, trial.attempts, trial.failures, trial.confirms) for trial in fresh} == {
        ("CREATED", 3, 0, True)
    }
    assert len(ledger._study.get_trials()) == 4


RANDOM = {"sampler": "random", "space": {ALPHA: {"low": 0.0, "high": 0.4}}}


def test_an_extended_sweep_confirms_what_is_best_then_and_no_seed_twice(storage: Storage) -> None:
    first = spec(**RANDOM, trials=3)
    ledger = open_ledger(storage.ledger_url, first)
    searched(ledger, [50.0, 60.0, 55.0])
    before = ledger.confirm()
    for trial in before:
        complete(ledger, trial, 52.0)
    ledger = open_ledger(storage.ledger_url, extend_spec(first, "+2", []), extends=True)
    assert ledger.confirm() == []
    searched(ledger, [0.0, 0.0, 0.0, 58.0, 10.0])
    assert [(trial.choice, trial.seed) for trial in ledger.confirm()] == [(3, 2), (3, 3), (3, 4)]
    assert [trial for trial in ledger.trials if trial.confirms and trial.ended] == [
        replace(trial, state="COMPLETE", attempts=1, results={METRIC: 52.0}) for trial in before
    ]
    assert len(ledger.trials) == ledger.total == 10 + 9


def test_more_seeds_may_be_asked_of_a_sweep_that_is_over(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec(confirm=None))
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    assert ledger.confirm() == []
    ledger = open_ledger(storage.ledger_url, spec(confirm={"top": 1, "seeds": 1}))
    assert [(trial.choice, trial.seed) for trial in ledger.confirm()] == [(1, 2)]
    ledger = open_ledger(storage.ledger_url, spec(confirm={"top": 1, "seeds": 3}))
    assert [(trial.choice, trial.seed) for trial in ledger.confirm()] == [(1, 3), (1, 4)]
    with pytest.raises(LedgerError, match=r"search\.seeds"):
        open_ledger(storage.ledger_url, spec(seeds=3))


def test_the_driver_confirms_when_nothing_else_is_left_and_says_so(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    search = LedgerScheduler(ledger, storage, Silent())
    phases, seen = [], []
    for number in range(14):
        assert isinstance(search.next(str(number)), Launch)
        phases.append(sweep_status(storage, "sweep")["phase"])
        trial = search._running[str(number)]
        seen.append((trial.choice, trial.seed))
        search.end(str(number), Outcome("COMPLETE", {"knn/top1_val": 10.0 * trial.choice}))
    assert search.next("more") is Idle.FINISHED
    assert phases == ["searching"] * 8 + ["confirming"] * 6
    assert seen[8:] == [(3, 2), (3, 3), (3, 4), (2, 2), (2, 3), (2, 4)]
    status = sweep_status(storage, "sweep")
    assert (status["phase"], status["total"], status["complete"]) == ("over", 14, 14)
    text = io.StringIO()
    Console(file=text, width=200).print(status_table(status))
    assert "4 fresh" in text.getvalue()


def test_status_marks_collapsed_trials(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    first = ledger.trials[0]
    ledger.record(first).write(storage.trial("sweep", first.trial_id))
    Journal(storage.trial("sweep", first.trial_id)).append(TagsSet(tags={"collapsed": "true"}))
    status = sweep_status(storage, "sweep")
    assert [trial["collapsed"] for trial in status["trials"]] == [True, *[False] * 7]
    text = io.StringIO()
    Console(file=text, width=200).print(status_table(status))
    assert "COMPLETE, collapsed" in text.getvalue()
    assert "1 collapsed: all images have nearly the same features" in text.getvalue()


def test_a_resume_of_named_trials_confirms_nothing(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    search = LedgerScheduler(ledger, storage, Silent(), only=frozenset({"another"}))
    assert search.next("0") is Idle.FINISHED
    assert LedgerScheduler(ledger, storage, Silent()).next("1") is not Idle.FINISHED


def test_the_best_trial_is_one_that_fresh_seeds_found_good(storage: Storage) -> None:
    ledger = open_ledger(storage.ledger_url, spec())
    searched(ledger, [50.0, 60.0, 40.0, 55.0])
    for trial in ledger.confirm():
        complete(ledger, trial, 54.0 + trial.seed / 10 if trial.choice == 3 else 50.0)
    for trial in ledger.trials:
        path = encoder_path(storage.trial("sweep", trial.trial_id))
        path.parent.mkdir(parents=True)
        path.touch()
    best = best_trial(ledger, storage)
    assert (best.choice, best.seed) == (3, 4)  # the search liked choice 1 better
    assert "the best mean over fresh seeds" in select_trial(ledger, storage, None)[1]
    assert sweep_status(storage, "sweep")["best"] == pytest.approx(54.3)


def test_what_the_table_compares_is_confirmed_where_that_is_asked_for(storage: Storage) -> None:
    confirm = {"top": 1, "seeds": 1, "table": True}
    base = spec(confirm=confirm).model_dump(mode="json")

    def confirmed(name: str, **table: Any) -> set[int]:
        asked = from_dump({**base, "name": name, "table": {**base["table"], **table}})
        ledger = open_ledger(storage.ledger_url, asked)
        searched(ledger, [50.0, 60.0, 40.0, 55.0])
        fresh = ledger.confirm()
        assert len(ledger.trials) == ledger.total
        return {trial.choice for trial in fresh}

    assert confirmed("plain") == {1}
    assert confirmed("baseline", baseline="0.2") == {1, 2}
    assert confirmed("groups", group_by={"low": ["0.0", "0.1"], "high": ["0.2", "0.3"]}, baseline="low") == {1, 3}
    assert confirmed("parameter", group_by=["method.name"], baseline="autoencoder") == {1}
    assert make_plan(from_dump({**base, "table": {**base["table"], "baseline": "0.2"}}), [{"CPU": 2}]).confirming == 2


def test_a_confirmed_row_is_tested_by_fresh_seeds_and_a_chosen_one_by_no_others() -> None:
    table = made(group_by={"none": ["0.0"], "some": ["0.1", "0.2"]}, baseline="none")
    assert [cell.p for row in table.body for cell in (row.cells[0], row.cells[0].confirmed) if cell] == [None] * 3
    assert any("not tested" in note and "search.confirm" in note for note in table.notes)
    again = runs()
    fresh = again[again["confirms"] & (again[ALPHA] == 0.2)]
    baseline = fresh.assign(**{ALPHA: 0.0, "choice": 0, TEST: [50.0, 50.5, 51.8]})
    table = ablation(pd.concat([again, baseline]), rows=[ALPHA], columns=[TEST], baseline=0.0)
    by_row = {row.key[0]: row.cells[0] for row in table.body}
    assert (by_row[0.1].p, by_row[0.2].p) == (None, None)
    both = [scipy.stats.ttest_rel(FRESH[alpha], [50.0, 50.5, 51.8]).pvalue for alpha in (0.1, 0.2)]
    low, high = 4 * min(both), max(4 * min(both), 3 * max(both))  # Holm over two rows by either seeds
    assert [by_row[alpha].confirmed.p for alpha in (0.1, 0.2)] == pytest.approx(
        [low if both[0] < both[1] else high, high if both[0] < both[1] else low]
    )
    chosen = ablation(
        pd.concat([again, baseline]),
        rows=[ALPHA],
        columns=[TEST],
        group_by={"none": ["0.0"], "some": ["0.1", "0.2"]},
        baseline="none",
    )
    assert chosen.body[1].cells[0].confirmed.p == pytest.approx(2 * both[1])  # fresh seeds chose one of two
    assert any("Bonferroni" in note for note in chosen.notes)


def test_the_plan_counts_them() -> None:
    planned = make_plan(spec(), [{"CPU": 2}])
    assert (planned.choices, planned.seeds, planned.confirming, planned.trials) == (4, 2, 6, 14)
    assert (planned.pretrains, planned.pretrain_epochs) == (14, 14 * 50)
    text = io.StringIO()
    Console(file=text, width=200).print(plan_table(spec().name, asdict(planned)))
    assert "at most 14  (4 choices x 2 seeds, and 6 to confirm the best)" in text.getvalue()
    few = make_plan(spec(confirm={"top": 9, "seeds": 3}), [{"CPU": 2}])
    assert few.confirming == 4 * 3


@pytest.mark.parametrize(
    ("confirm", "said"),
    [
        ({"seeds": [1, 2]}, "search.confirm.seeds: [1, 2]: are to be fresh, and the search has used 1"),
        ({"seeds": [7, 7]}, "search.confirm.seeds: [7, 7]: has 7 twice"),
        ({"seeds": 0}, "search.confirm.seeds: 0: is no number of seeds"),
        ({"tops": 3}, "search.confirm.tops: 3: is not a key of search.confirm; did you mean 'top'?"),
        (3, "search.confirm: 3: must be a mapping"),
    ],
)
def test_mistakes_are_named(confirm: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(confirm=confirm)
    assert said in str(caught.value)


SEARCHED = {0.0: [50.0, 52.0], 0.1: [60.0, 66.0], 0.2: [58.0, 60.0]}
FRESH = {0.1: [55.0, 57.0, 59.0], 0.2: [58.0, 59.0, 60.0]}


def runs() -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"{alpha}-{seed}", "sweep": "demo", "choice": choice, "seed": seed, "state": "COMPLETE",
            "confirms": seed > 1, ALPHA: alpha, "method.name": "moco", TEST: score, METRIC: score,
        }
        for choice, (alpha, scores) in enumerate(SEARCHED.items())
        for seed, score in enumerate([*scores, *FRESH.get(alpha, [])])
    ]  # fmt: skip
    return pd.DataFrame(rows)


def made(**options: Any) -> Table:
    return ablation(runs(), **{"rows": [ALPHA], "columns": [TEST]} | options)


def test_a_table_shows_the_searchs_means_the_fresh_ones_and_the_change() -> None:
    table = made()
    cells = {row.key[0]: row.cells[0] for row in table.body}
    for alpha, cell in cells.items():
        assert cell.mean == fmean(SEARCHED[alpha])
        assert cell.n == 2
        assert not cell.best  # the search's own figures flatter what it chose
        if alpha in FRESH:
            assert (cell.confirmed.mean, cell.confirmed.n) == (fmean(FRESH[alpha]), 3)
            assert cell.confirmed.std == pytest.approx(stdev(FRESH[alpha]))
            assert cell.change == fmean(FRESH[alpha]) - fmean(SEARCHED[alpha])
    assert [cell.confirmed is not None and cell.confirmed.best for cell in cells.values()] == [False, False, True]
    assert any("over 3 fresh seeds (2, 3, 4) of the 2 choices" in note for note in table.notes)
    assert not any("fewer than" in note for note in table.notes)


def test_every_format_has_the_confirmed_figures() -> None:
    shown = grid(made())
    assert shown.headers == ("overlay_alpha", "knn top1 (test)", "confirmed", "change")
    assert shown.lines[0][1:] == ("51.0 ± 1.4 (2)", NOTHING, NOTHING)
    assert shown.lines[1][1:] == ("63.0 ± 4.2 (2)", "57.0 ± 2.0 (3)", "-6.0")
    assert shown.best == {(2, 2)}
    assert "**59.0 ± 1.0** (3)" in render(made(), "md")
    assert r"$\mathbf{59.0 \pm 1.0}$ (3) & $+$0.0" in render(made(), "tex")
    assert "0.1,knn/top1_test,63.0," in render(made(), "csv")
    assert render(made(), "csv").splitlines()[2].endswith(",57.0,2.0,3,,False,0,-6.0,False")
    assert render(made(), "csv").splitlines()[3].endswith(",59.0,1.0,3,,True,0,0.0,True")  # and is selected


def test_the_best_row_of_a_group_is_its_best_confirmed_one() -> None:
    assert [row.key for row in made(group_by=["method.name"]).body] == [("moco", 0.2)]


def test_a_row_of_several_choices_compares_what_was_confirmed_with_itself() -> None:
    (cell,) = made(rows=["method.name"]).body[0].cells
    assert cell.confirmed.n == 3
    assert cell.found == fmean([*SEARCHED[0.1], *SEARCHED[0.2]])


def test_the_page_calls_best_what_fresh_seeds_found_best() -> None:
    found = {"space": {ALPHA: [0.0, 0.1, 0.2]}, "objective": f"maximize {METRIC}"}
    page = Sweep("demo", {"search": found}, runs(), pd.Timestamp("2026-01-01", tz="UTC"), (), frozenset(), None)
    best = summary.best(page)
    assert best.knobs == "overlay_alpha=0.2"
    assert "59\u202f%, mean of 3 fresh seeds (59\u202f%, mean of 2 seeds, in the search)" in best.figure
    assert [choice.objective for choice in page.choices] == [59.0, 63.0, 51.0]


def test_choices_know_all_their_trials() -> None:
    trials = (Trial("a", 0, 0), Trial("b", 0, 1))
    choice = Choice(0, {}, trials[:1], confirming=trials[1:])
    assert choice.all_trials == trials
    assert choice.means([METRIC]) is None
