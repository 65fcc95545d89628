from typing import Any

import pandas as pd
import pytest

from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.options import options, with_undrawn
from ssl_sweep.tables.pivot import TableError
from ssl_sweep.tables.table import Table

TEST = "knn/top1_test"
ALPHA, MASK = "views.overlay_alpha", "views.mask_ratio"
OBJECTIVE = "maximize knn/top1_val"
OVERLAY = {
    "search": {"objective": OBJECTIVE},
    "table": {
        "rows": [ALPHA],
        "columns": [TEST],
        "published": {TEST: {"0.0": 37.1, "0.3": 38.1, "0.9": 1.0}},
        "baseline": "0.0",
        "interval": "t",
        "test": "t",
        "group_by": [],
    },
}
MASKING = {
    "search": {"objective": OBJECTIVE},
    "table": {"rows": [MASK], "columns": [TEST, "pretrain/loss"], "published": {TEST: {"0.2": 36.7}}},
}


def make_runs(sweep: str, knob: str, scores: dict[float, list[float]], **others: Any) -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"{sweep}-{choice}-{seed}",
            "sweep": sweep,
            "choice": choice,
            "seed": seed,
            "state": "COMPLETE",
            "method.name": "autoencoder",
            knob: value,
            TEST: score,
            "knn/top1_val": score,
        }
        for choice, (value, by_seed) in enumerate(scores.items())
        for seed, score in enumerate(by_seed)
    ]
    return pd.DataFrame(rows).assign(**others)


OVERLAYS = make_runs("overlay", ALPHA, {0.0: [50.0, 52.0, 51.0], 0.3: [55.0, 56.9, 56.1]})
MASKINGS = make_runs("masking", MASK, {0.1: [53.0, 54.2, 53.1], 0.2: [50.0, 51.0, 52.0]})


def made(specs: dict[str, Any], *runs: pd.DataFrame, **asked: Any) -> Table:
    found = pd.concat(runs, ignore_index=True)
    return ablation(found, **options(specs, found, **asked))


def test_one_sweep_is_as_its_spec_says() -> None:
    assert options({"overlay": OVERLAY}, OVERLAYS) == {**OVERLAY["table"], "objective": (OBJECTIVE,)}
    table = made({"overlay": OVERLAY}, OVERLAYS)
    assert [row.cells[0].published for row in table.body] == [37.1, 38.1]
    assert table.interval == "t"
    assert "published, but no row here: 0.9" in table.notes


def test_what_is_asked_for_rules() -> None:
    found = options({"overlay": OVERLAY}, OVERLAYS, interval="std", baseline="0.3", columns=None)
    assert found == {**OVERLAY["table"], "objective": (OBJECTIVE,), "interval": "std", "baseline": "0.3"}


def test_several_sweeps_have_a_row_for_each_of_their_settings() -> None:
    table = made({"overlay": OVERLAY, "masking": MASKING}, OVERLAYS, MASKINGS)
    assert table.rows == ("sweep", ALPHA, MASK)
    assert table.columns == (TEST, "pretrain/loss")
    assert [row.key for row in table.body] == [
        ("overlay", 0.0, None),
        ("overlay", 0.3, None),
        ("masking", None, 0.1),
        ("masking", None, 0.2),
    ]
    assert [row.cells[0].published for row in table.body] == [37.1, 38.1, None, 36.7]
    assert [row.cells[0].pairs for row in table.body] == [0, 3, 3, 3]
    assert any("against sweep=overlay, overlay_alpha=0, mask_ratio=–" in note for note in table.notes)


def test_the_best_of_each_sweep() -> None:
    table = made({"overlay": OVERLAY, "masking": MASKING}, OVERLAYS, MASKINGS, group_by=["sweep"], baseline="masking")
    assert [row.key for row in table.body] == [("overlay", 0.3, None), ("masking", None, 0.1)]
    assert [row.cells[0].pairs for row in table.body] == [0, 0]  # both rows were chosen by these seeds
    assert any("search.confirm" in note for note in table.notes)


def test_groups_of_rows_are_found_in_several_sweeps() -> None:
    first = {**OVERLAY, "table": {**OVERLAY["table"], "group_by": {"overlay": ["0.3"], "none": ["0.0"]}}}
    second = {**MASKING, "table": {**MASKING["table"], "group_by": {"masking": ["0.1", "0.2"]}}}
    table = made({"overlay": first, "masking": second}, OVERLAYS, MASKINGS)
    assert [row.key for row in table.body] == [
        ("overlay", "overlay", 0.3, None),
        ("none", "overlay", 0.0, None),
        ("masking", "masking", None, 0.1),
    ]


def test_figures_of_a_setting_do_not_stand_beside_a_mean_over_several() -> None:
    table = made({"overlay": OVERLAY}, OVERLAYS, rows=["method.name"])
    assert [row.cells[0].published for row in table.body] == [None]
    assert "published, but no row here: 0.0; 0.3; 0.9" in table.notes
    finer = made({"overlay": OVERLAY}, OVERLAYS, rows=["method.name", ALPHA])
    assert [row.cells[0].published for row in finer.body] == [37.1, 38.1]


def test_sweeps_that_disagree_on_the_objective_are_judged_by_the_first_column() -> None:
    other = {**MASKING, "search": {"objective": "minimize pretrain/loss"}}
    table = made({"overlay": OVERLAY, "masking": other}, OVERLAYS, MASKINGS, group_by=["sweep"])
    assert any("the highest mean knn/top1_val" in note for note in table.notes)


def test_runs_of_two_stores_fit_together_by_value() -> None:
    mixed = OVERLAYS.assign(sweep="again", **{ALPHA: OVERLAYS[ALPHA].astype(object)})  # a column with texts in it
    table = made({"overlay": OVERLAY, "again": OVERLAY}, OVERLAYS, mixed)
    assert [row.key for row in table.body] == [("overlay", 0.0), ("overlay", 0.3), ("again", 0.0), ("again", 0.3)]
    assert [row.cells[0].published for row in table.body] == [37.1, 38.1, 37.1, 38.1]


def test_no_trials_yet_and_a_spec_of_another_version() -> None:
    empty = pd.DataFrame(columns=["trial_id", "sweep", "choice", "seed", "state"])
    assert made({"overlay": OVERLAY, "masking": MASKING}, empty).notes == ("no trials yet",)
    assert made({"overlay": {}}, OVERLAYS).body[0].key == ()


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(TableError, match=r"'views\.overlay_alpa' .* did you mean 'views\.overlay_alpha'"):
        made({"overlay": OVERLAY}, OVERLAYS, rows=["views.overlay_alpa"])


def test_a_knob_that_the_search_never_drew_has_an_empty_column() -> None:
    runs = pd.DataFrame(
        {"trial_id": ["a", "b"], "sweep": ["s", "s"], "state": ["COMPLETE"] * 2, "seed": [0, 0], "choice": [0, 1]}
        | {"method.name": ["byol", "vicreg"], "method.momentum": [0.9, None], TEST: [50.0, 60.0]}
    )
    choices = ["vicreg", {"name": "byol", "momentum": {"low": 0.9, "high": 1.0}}, {"name": "simclr", "dim": [8, 16]}]
    spec = {
        "search": {"space": {"method": {"choices": choices}}},
        "table": {"rows": ["method.name", "method.momentum", "method.temperature"], "columns": [TEST]},
    }
    whole = with_undrawn(runs, [spec])
    assert set(whole.columns) - set(runs.columns) == {"method.temperature", "method.dim"}
    table = ablation(whole, **options({"s": spec}, whole))
    assert [row.key for row in table.body] == [("byol", 0.9, None), ("vicreg", None, None)]
    with pytest.raises(TableError, match=r"method\.temprature"):
        ablation(whole, **options({"s": spec}, whole, rows=["method.temprature"]))
