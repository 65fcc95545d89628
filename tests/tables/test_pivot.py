import math

import pandas as pd
import pytest

from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.table import Table

VAL, TEST = "knn/top1_val", "knn/top1_test"
NAME, ALPHA = "method.name", "views.overlay_alpha"
# by method and alpha: validation and test accuracy; on test another alpha would win
RUNS = {
    ("moco", 0.0): (60.0, 55.0),
    ("moco", 0.1): (62.0, 54.0),
    ("byol", 0.0): (59.0, 50.0),
    ("byol", 0.1): (58.0, 52.0),
    ("byol", 0.2): (57.0, 53.0),
}


def make_runs(scores: dict[tuple[str, float], tuple[float, float]] = RUNS) -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"{choice}-{seed}",
            "sweep": method,
            "choice": choice,
            "seed": seed,
            "state": "COMPLETE",
            "case": f"{method} {alpha}",
            NAME: method,
            ALPHA: alpha,
            VAL: val + seed,
            TEST: test + seed,
        }
        for choice, ((method, alpha), (val, test)) in enumerate(scores.items())
        for seed in range(2)
    ]
    return pd.DataFrame(rows)


def best(runs: pd.DataFrame | None = None, **options: object) -> Table:
    chosen = {"rows": [ALPHA], "columns": [TEST], "group_by": [NAME], "objective": f"maximize {VAL}"} | options
    return ablation(make_runs() if runs is None else runs, **chosen)


def keys_and_means(table: Table) -> list[tuple[object, ...]]:
    return [(*row.key, row.cells[0].mean) for row in table.body]


def test_the_best_of_each_group_by_validation_and_its_setting() -> None:
    table = best()
    assert table.rows == (NAME, ALPHA)
    assert keys_and_means(table) == [("moco", 0.1, 54.5), ("byol", 0.0, 50.5)]
    assert f"each group's row has the highest mean {VAL}: moco of 2, byol of 3" in table.notes


@pytest.mark.parametrize("objective", ["", f"maximize {TEST}"])
def test_test_scores_never_choose(objective: str) -> None:
    assert keys_and_means(best(objective=objective)) == [("moco", 0.1, 54.5), ("byol", 0.0, 50.5)]


def test_an_objective_that_is_minimized_chooses_the_lowest() -> None:
    table = best(objective=f"minimize {VAL}")
    assert keys_and_means(table) == [("moco", 0.0, 55.5), ("byol", 0.2, 53.5)]
    assert any(f"the lowest mean {VAL}" in note for note in table.notes)
    losses = make_runs().rename(columns={VAL: "pretrain/loss"})
    assert keys_and_means(best(losses, objective="", columns=["pretrain/loss", TEST]))[0][:2] == ("moco", 0.0)


def test_a_group_that_is_a_row_knob_stands_once() -> None:
    table = best(rows=[ALPHA, NAME])
    assert table.rows == (NAME, ALPHA)


def test_groups_with_names_of_their_own() -> None:
    groups = {"no overlay": ["moco 0.0", "byol 0.0"], "overlay": ["byol 0.1", "moco 0.1"]}
    table = best(rows=["case"], group_by=groups, published={TEST: {"overlay": 56.0, "moco 0.0": 54.0, "byol 0.1": 1.0}})
    assert table.rows == ("group", "case")
    assert keys_and_means(table) == [
        ("no overlay", "moco 0.0", 55.5),
        ("overlay", "moco 0.1", 54.5),
        ("byol 0.2", "byol 0.2", 53.5),  # in no group: one of its own
    ]
    assert [row.cells[0].published for row in table.body] == [54.0, 56.0, None]
    assert not any("published, but" in note for note in table.notes)  # byol 0.1 has a row, which is not the best


@pytest.mark.parametrize("baseline", ["moco", "0.1"])
def test_the_baseline_is_a_group_or_the_row_shown_for_it(baseline: str) -> None:
    table = best(make_runs({**RUNS, ("moco", 0.1): (62.0, 54.5)}), baseline=baseline)
    assert any("not tested against method=moco, overlay_alpha=0.1" in note for note in table.notes)


def test_the_best_cell_is_found_among_the_rows_shown() -> None:
    assert [row.cells[0].best for row in best().body] == [True, False]


def test_a_group_without_validation_scores_has_an_empty_row() -> None:
    runs = make_runs()
    runs.loc[runs[NAME] == "byol", VAL] = math.nan
    assert keys_and_means(best(runs)) == [("moco", 0.1, 54.5), ("byol", None, None)]
    runs = make_runs().drop(columns=VAL)
    assert f"no trial has reported {VAL}, which chooses each group's row" in best(runs).notes


def test_a_group_of_one_needs_no_choice() -> None:
    runs = make_runs({("supervised", 0.0): (math.nan, 70.0), ("moco", 0.0): (60.0, 55.0)})
    assert keys_and_means(best(runs)) == [("supervised", 0.0, 70.5), ("moco", 0.0, 55.5)]


def test_no_trials_yet() -> None:
    assert best(pd.DataFrame(columns=["trial_id", "sweep", "choice", "seed", "state"])).body == ()


def test_a_searched_method_that_groups_stands_once() -> None:
    runs = make_runs()
    runs["method"] = runs[NAME]
    table = best(runs, rows=["method", ALPHA], baseline="byol, 0.0", published={TEST: {"moco, 0.1": 56.0}})
    assert table.rows == (NAME, ALPHA)
    assert keys_and_means(table) == [("moco", 0.1, 54.5), ("byol", 0.0, 50.5)]
    assert table.body[0].cells[0].published == 56.0
    assert any("not tested against method=byol, overlay_alpha=0" in note for note in table.notes)


NAMES = ["1.1", "1.10", "null", "nan", None, "true", True, "1", 1, "1e-3", 0.001, "2024-01-02", 0.3]


def of_values(values: list[object]) -> pd.DataFrame:
    columns = {"trial_id": map(str, range(len(values))), "sweep": "a", "choice": range(len(values)), "seed": 0}
    scores = [float(place) for place in range(len(values))]
    return pd.DataFrame({**columns, "state": "COMPLETE", "case": pd.Series(values, dtype=object), TEST: scores})


def test_values_of_other_types_are_other_rows() -> None:
    table = ablation(of_values(NAMES), rows=["case"], columns=[TEST])
    assert sorted(row.cells[0].mean for row in table.body) == list(map(float, range(len(NAMES))))
    by_mean = {row.cells[0].mean: row.key[0] for row in table.body}
    assert [(type(by_mean[place]), by_mean[place]) for place in range(len(NAMES))] == [(type(n), n) for n in NAMES]


def test_numbers_that_differ_by_rounding_are_one_row() -> None:
    table = ablation(of_values([0.30000000000000004, 0.3, 1, 1.0]), rows=["case"], columns=[TEST])
    assert [(row.key, row.cells[0].mean) for row in table.body] == [((0.3,), 0.5), ((1,), 2.5)]


def test_a_label_names_the_row_that_is_written_alike() -> None:
    figures = {"1.1": 50.0, "1.10": 60.0, "1.100": 70.0, "0.30": 80.0, "null": 90.0}
    table = ablation(of_values(NAMES), rows=["case"], columns=[TEST], published={TEST: figures}, baseline="1.10")
    shown = {row.key[0]: row.cells[0].published for row in table.body if row.cells[0].published is not None}
    assert shown == {"1.1": 50.0, "1.10": 60.0, 0.3: 80.0}
    # three ways to write one number are no name, nor is the text of a missing value and of a name
    assert "published, but no row here: 1.100" in table.notes
    assert any("not tested against case=1.10" in note for note in table.notes)


def test_groups_know_names_that_look_like_numbers() -> None:
    runs = of_values(["1.1", "1.10", "0"]).assign(**{VAL: [1.0, 2.0, 3.0]})
    table = best(runs, rows=["case"], group_by={"new": ["1.10"], "old": ["1.1", "0"]})
    assert keys_and_means(table) == [("new", "1.10", 1.0), ("old", "0", 2.0)]
