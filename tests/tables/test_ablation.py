import math
import statistics

import pandas as pd
import pytest
import scipy.stats

from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.pivot import TableError
from ssl_sweep.tables.table import Table

TOP1 = "finetune/top1_test"
LOSS = "pretrain/loss"
SCORES = {0.0: [36.0, 38.0], 0.3: [41.25, 42.75], 0.1: [40.0, 40.5]}
BOLD = "bold: the best mean of a column, which selected nothing"
PAIRED = {0.0: [50.0, 52.0, 51.0, 49.5], 0.1: [50.2, 51.9, 51.3, 49.4], 0.2: [55.0, 56.9, 56.1, 54.4]}


def make_runs(scores: dict[object, list[float]] = SCORES, knob: str = "views.overlay_alpha") -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"{choice}-{seed}",
            "sweep": "demo",
            "choice": choice,
            "seed": seed,
            "state": "COMPLETE",
            knob: value,
            "pretrain.lr": 0.1,
            TOP1: score,
            LOSS: score / 1000,
        }
        for choice, (value, by_seed) in enumerate(scores.items())
        for seed, score in enumerate(by_seed)
    ]
    return pd.DataFrame(rows)


def make_table(runs: pd.DataFrame | None = None, **options: object) -> Table:
    chosen = {"rows": ["views.overlay_alpha"], "columns": [TOP1, LOSS]} | options
    return ablation(make_runs() if runs is None else runs, **chosen)


def test_rows_are_means_over_seeds_in_numeric_order() -> None:
    table = make_table()
    assert [row.key for row in table.body] == [(0.0,), (0.1,), (0.3,)]
    for row in table.body:
        scores = SCORES[row.key[0]]
        assert row.cells[0].mean == pytest.approx(statistics.mean(scores))
        assert row.cells[0].std == pytest.approx(statistics.stdev(scores))
        assert row.cells[0].n == 2


def test_best_is_highest_accuracy_and_lowest_loss() -> None:
    best = [[cell.best for cell in row.cells] for row in make_table().body]
    assert best == [[False, True], [False, False], [True, False]]


def test_the_objective_says_what_is_best_of_its_metric() -> None:
    table = make_table(objective="minimize finetune/top1_val")
    assert [row.cells[0].best for row in table.body] == [True, False, False]
    table = make_table(objective="maximize pretrain/loss")
    assert [row.cells[1].best for row in table.body] == [False, False, True]


def test_what_rounds_to_the_best_figure_is_best_too() -> None:
    table = make_table(make_runs({0.0: [40.01], 0.1: [40.04], 0.2: [39.9]}))
    assert [row.cells[0].best for row in table.body] == [True, True, False]


def test_one_seed_has_no_spread() -> None:
    for interval in ("std", "t", "bootstrap"):
        cell = make_table(make_runs({0.0: [40.0], 0.1: [41.0]}), interval=interval).body[0].cells[0]
        assert (cell.mean, cell.std, cell.n, cell.low, cell.high) == (40.0, None, 1, None, None)


def test_single_seeds_are_said_once() -> None:
    runs = make_runs({0.0: [40.0], 0.1: [41.0]})
    assert make_table(runs).notes == ("one seed each, so no deviation (number of seeds)", BOLD)
    pruned = runs.assign(state=["COMPLETE", "PRUNED"])
    assert make_table(pruned).notes[1:] == ("not in the means: 1 PRUNED of 2 trials",)  # nor that it has fewer seeds


def test_only_complete_trials_count_and_the_others_are_named() -> None:
    runs = make_runs()
    runs.loc[runs["trial_id"] == "1-1", "state"] = "FAILED"
    runs.loc[runs["trial_id"].str.startswith("0-"), "state"] = "RUNNING"
    table = make_table(runs)
    assert (table.body[0].cells[0].mean, table.body[0].cells[0].n) == (None, 0)
    assert table.body[2].cells[0].n == 1
    assert "not in the means: 1 FAILED, 2 RUNNING of 6 trials" in table.notes
    assert "fewer than 2 seeds: overlay_alpha=0 (0); overlay_alpha=0.3 (1)" in table.notes


def test_nan_and_inf_of_a_complete_trial_are_left_out() -> None:
    table = make_table(make_runs({0.0: [math.nan, 40.0], 0.1: [math.inf, 41.0]}))
    assert [(row.cells[0].mean, row.cells[0].n) for row in table.body] == [(40.0, 1), (41.0, 1)]


@pytest.mark.parametrize("keys", [(0.0, 0.1, 0.3), ("0.0", "0.10", "0.3"), (0, "0.1", 0.30)])
def test_published_figures_match_by_number_or_text(keys: tuple[object, ...]) -> None:
    published = {TOP1: dict(zip(keys, (37.1, 37.0, 38.12), strict=True))}
    for knob in (SCORES, {str(value): scores for value, scores in SCORES.items()}):
        table = make_table(make_runs(knob), published=published)
        shown = {float(row.key[0]): row.cells[0].published for row in table.body}
        assert shown == {0.0: 37.1, 0.1: 37.0, 0.3: 38.12}
        assert table.has_published == (True, False)
        differences = {float(row.key[0]): row.cells[0].difference for row in table.body}
        assert differences == pytest.approx({0.0: 37.0 - 37.1, 0.1: 40.25 - 37.0, 0.3: 42.0 - 38.12})


@pytest.mark.parametrize("label", ["true", "True", True])
def test_published_figures_of_a_switch(label: object) -> None:
    table = make_table(make_runs({False: [1.0], True: [2.0]}), published={TOP1: {label: 3.0}})
    assert [row.cells[0].published for row in table.body] == [None, 3.0]


def test_published_without_a_row_is_said() -> None:
    assert "published, but no row here: 0.5" in make_table(published={TOP1: {0.0: 1.0, 0.5: 2.0}}).notes
    assert not any("published, but" in note for note in make_table(published={TOP1: {0.0: 1.0}}).notes)


def test_texts_keep_the_order_of_the_runs_and_several_knobs_make_one_row() -> None:
    runs = pd.concat([make_runs().assign(method="moco"), make_runs().assign(method="byol")])
    table = make_table(runs, rows=["method", "views.overlay_alpha"], published={TOP1: {"byol, 0.1": 5.0}})
    assert [row.key for row in table.body] == [(m, a) for m in ("moco", "byol") for a in (0.0, 0.1, 0.3)]
    assert [row.cells[0].published for row in table.body] == [None, None, None, None, 5.0, None]


def test_absent_value_is_a_row_of_its_own_at_the_end() -> None:
    table = make_table(make_runs({None: [1.0], 3: [2.0], 2: [3.0]}))
    assert [row.key for row in table.body] == [(2,), (3,), (None,)]


def test_a_row_over_several_choices_is_a_mean_by_seed_and_says_so() -> None:
    runs = make_runs()
    other = make_runs({value: [score + 2 for score in scores] for value, scores in SCORES.items()})
    other = other.assign(choice=other["choice"] + 3, **{"pretrain.lr": 0.2})
    table = make_table(pd.concat([runs, other]))
    assert "3 rows are means over several choices, seed by seed, which differ in pretrain.lr" in table.notes
    cell = table.body[0].cells[0]
    assert (cell.mean, cell.n) == (38.0, 2)
    assert cell.std == pytest.approx(statistics.stdev([37.0, 39.0]))
    assert not any("choices" in note for note in make_table().notes)
    one = pd.concat([runs[runs["choice"] == 0], other[other["choice"] == 3]])
    assert "1 row is a mean over several choices, seed by seed, which differ in pretrain.lr" in make_table(one).notes


def test_unknown_row_is_refused_and_unknown_column_is_said() -> None:
    with pytest.raises(TableError, match=r"table\.rows: 'views\.overlay_alhpa' .* did you mean 'views\.overlay_alpha'"):
        make_table(rows=["views.overlay_alhpa"])
    table = make_table(columns=["finetune/top1_tset"])
    assert "no trial has reported finetune/top1_tset; did you mean finetune/top1_test?" in table.notes
    assert {row.cells[0].mean for row in table.body} == {None}


def test_a_parameter_that_is_not_searched_is_a_row_too() -> None:
    assert [row.key for row in make_table(rows=["pretrain.lr"]).body] == [(0.1,)]
    assert [row.key for row in make_table(rows=["seed"]).body] == [(0,), (1,)]


def test_trials_that_died_before_they_said_what_they_are_have_an_empty_row() -> None:
    runs = make_runs().drop(columns=["views.overlay_alpha", "pretrain.lr"]).assign(state="FAILED")
    assert [row.key for row in make_table(runs).body] == [(None,)]


def test_a_sweep_that_searches_nothing_is_one_row() -> None:
    table = make_table(make_runs({0.0: [40.0, 42.0]}), rows=[])
    assert [(row.key, row.cells[0].mean, row.cells[0].n) for row in table.body] == [((), 41.0, 2)]


def test_no_trials_yet() -> None:
    table = make_table(pd.DataFrame(columns=["trial_id", "sweep", "choice", "seed", "state"]), baseline=0.0)
    assert (table.body, table.notes) == ((), ("no trials yet",))


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_intervals_hold_the_mean_and_are_named(interval: str) -> None:
    table = make_table(make_runs(PAIRED), interval=interval)
    for row in table.body:
        cell = row.cells[0]
        assert cell.low < cell.mean < cell.high
    assert {"t": "by Student's t", "bootstrap": "by percentile bootstrap, 10,000 resamples"}[interval] in table.notes[0]
    assert any("too narrow" in note for note in table.notes) == (interval == "bootstrap")


def test_the_interval_is_scipys() -> None:
    cell = make_table(make_runs(PAIRED), interval="t").body[2].cells[0]
    wanted = scipy.stats.ttest_1samp(PAIRED[0.2], 0).confidence_interval(0.95)
    assert (cell.low, cell.high) == pytest.approx((wanted.low, wanted.high))


def test_rows_are_tested_against_the_baseline_seed_by_seed() -> None:
    runs = make_runs(PAIRED).sample(frac=1, random_state=0)  # pairs are found by seed, not by place
    table = make_table(runs, baseline="0.0")
    near, far = (float(scipy.stats.ttest_rel(PAIRED[value], PAIRED[0.0]).pvalue) for value in (0.1, 0.2))
    assert far < near
    cells = {row.key: row.cells[0] for row in table.body}
    assert cells[0.1,].p == pytest.approx(near)
    assert cells[0.2,].p == pytest.approx(2 * far)  # Holm: the smaller of two counts twice
    assert (cells[0.0,].p, cells[0.2,].pairs) == (None, 4)
    assert [cells[value,].mark for value in (0.0, 0.1, 0.2)] == ["", "", "**"]
    assert (
        "* p below 0.05, ** below 0.01, against overlay_alpha=0: paired t-test over the seeds in common, "
        "two-sided, with Holm's correction for the rows of a column"
    ) in table.notes


def test_only_seeds_in_common_are_compared() -> None:
    runs = make_runs(PAIRED)
    runs.loc[runs["trial_id"] == "0-3", "state"] = "FAILED"
    runs.loc[runs["trial_id"] == "1-0", TOP1] = math.nan
    cell = make_table(runs, baseline=0).body[1].cells[0]
    assert cell.pairs == 2
    assert cell.p == pytest.approx(scipy.stats.ttest_rel(PAIRED[0.1][1:3], PAIRED[0.0][1:3]).pvalue)


def test_too_few_seeds_are_no_test_and_a_note() -> None:
    table = make_table(make_runs({0.0: [50.0], 0.1: [52.0]}), baseline=0.0)
    assert [row.cells[0].p for row in table.body] == [None, None]
    assert table.notes[1:] == (
        BOLD,
        "not tested against overlay_alpha=0, fewer than two seeds in common, or the same difference for each seed: "
        "overlay_alpha=0.1",
    )


def test_wilcoxon_over_few_seeds_says_that_it_cannot_find_anything() -> None:
    scores = {alpha: [50.0 + index + 5 * alpha * (index + 1) for index in range(5)] for alpha in (0.0, 0.1, 0.2)}
    table = make_table(make_runs(scores), baseline=0.0, test="wilcoxon")
    assert [row.cells[0].p for row in table.body] == [None, 0.125, 0.125]
    assert (
        "no mark is possible: with 5 seeds and 2 comparisons Wilcoxon's p is never below 0.125; run 7 seeds or more, "
        "or use the t-test"
    ) in table.notes
    assert any("exact Wilcoxon signed-rank test" in note for note in table.notes)
    enough = {alpha: [50.0 + index + 5 * alpha * (index + 1) for index in range(7)] for alpha in (0.0, 0.1, 0.2)}
    table = make_table(make_runs(enough), baseline=0.0, test="wilcoxon")
    assert [row.cells[0].mark for row in table.body] == ["", "*", "*"]
    assert not any("no mark" in note for note in table.notes)


def test_a_baseline_that_is_no_row_is_said() -> None:
    table = make_table(baseline="0.7")
    assert "no tests: the baseline 0.7 is no row here" in table.notes
    assert all(cell.p is None for row in table.body for cell in row.cells)
