"""Sweeps of several data sets: columns of their own, and nothing that compares across them."""

import csv
import io
import json
from typing import Any

import pandas as pd
import pytest

from ssl_sweep.api.table import AblationFrame
from ssl_sweep.tables.data_sets import split_by_data
from ssl_sweep.tables.options import make_table
from ssl_sweep.tables.render import grid, render
from ssl_sweep.tables.table import Table

VAL, TEST = "knn/top1_val", "knn/top1_test"
ALPHA = "views.overlay_alpha"
SPEC = {
    "search": {"objective": f"maximize {VAL}"},
    "table": {"rows": [ALPHA], "columns": [TEST], "published": {TEST: {"0.0": 37.1}}, "baseline": "0.0"},
}
OTHER = {**SPEC, "table": {**SPEC["table"], "published": {TEST: {"0.0": 90.0}}}}
DIGITS = {0.0: [50.0, 52.0, 51.0], 0.3: [55.0, 56.9, 56.1]}
FLOWERS = {0.0: [93.0, 92.0, 94.0], 0.1: [95.0, 94.2, 96.1], 0.3: [91.0, 90.0, 92.5]}


def make_runs(sweep: str, source: str, scores: dict[float, list[float]], **others: Any) -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"{sweep}-{choice}-{seed}",
            "sweep": sweep,
            "choice": choice,
            "seed": seed,
            "state": "COMPLETE",
            "data.source": source,
            ALPHA: value,
            TEST: score,
            VAL: score,
        }
        for choice, (value, by_seed) in enumerate(scores.items())
        for seed, score in enumerate(by_seed)
    ]
    return pd.DataFrame(rows).assign(**others)


def made(**options: Any) -> Table:
    runs = [make_runs("small", "digits", DIGITS), make_runs("large", "imagefolder:/data/flowers", FLOWERS)]
    return make_table({"small": SPEC, "large": OTHER}, pd.concat(runs, ignore_index=True), **options)


def test_sweeps_of_two_data_sets_share_rows_and_have_columns_of_their_own() -> None:
    table = made()
    assert table.rows == (ALPHA,)
    assert (table.columns, table.data) == ((TEST, TEST), ("digits", "imagefolder:flowers"))
    assert [(row.key[0], *(cell.mean for cell in row.cells)) for row in table.body] == [
        (0.0, 51.0, 93.0),
        (0.1, None, pytest.approx(95.1)),
        (0.3, 56.0, pytest.approx(273.5 / 3)),
    ]
    assert [[cell.published for cell in row.cells] for row in table.body] == [[37.1, 90.0], [None] * 2, [None] * 2]


def test_nothing_is_best_selected_or_tested_across_data_sets() -> None:
    table = made()
    assert [[cell.best for cell in row.cells] for row in table.body] == [[False] * 2, [False, True], [True, False]]
    assert [[cell.pairs for cell in row.cells] for row in table.body] == [[0, 0], [0, 3], [3, 3]]
    assert table.notes[0].startswith("2 data sets with columns of their own")
    assert "† of digits: overlay_alpha=0.3" in table.notes
    assert "† of imagefolder:flowers: overlay_alpha=0.1" in table.notes
    groups = made(group_by=["sweep"])
    assert [row.key for row in groups.body] == [("small", 0.3), ("large", 0.1)]


def test_every_format_names_the_data_set() -> None:
    table = made()
    assert grid(table).headers[1] == "knn top1 (test) [digits]"
    assert "| knn top1 (test) [digits] |" in render(table, "md")
    assert r"& \multicolumn{3}{c}{digits} & \multicolumn{3}{c}{imagefolder:flowers} \\" in render(table, "tex")
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}" in render(table, "tex")
    assert '<th colspan="3" scope="colgroup">digits</th>' in render(table, "html")
    assert json.loads(render(table, "json"))["rows"][0][f"{TEST} [digits]"]["mean"] == 51.0
    lines = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert [(line["data"], line["mean"]) for line in lines[:2]] == [("digits", "51.0"), ("imagefolder:flowers", "93.0")]
    assert (f"{TEST} [digits]", "mean") in AblationFrame(table, "both").columns


def test_several_sweeps_of_a_set_keep_their_names_as_rows() -> None:
    runs = [make_runs("small", "digits", DIGITS), make_runs("again", "digits", DIGITS)]
    runs += [make_runs("large", "imagefolder:flowers", FLOWERS)]
    table = make_table({"small": SPEC, "again": SPEC, "large": OTHER}, pd.concat(runs, ignore_index=True))
    assert table.rows == ("sweep", ALPHA)
    assert [row.key for row in table.body][:2] == [("small", 0.0), ("small", 0.3)]


def test_what_is_evaluated_tells_sets_apart() -> None:
    def sets(*runs: pd.DataFrame) -> list[str]:
        return list(split_by_data(pd.concat(runs, ignore_index=True)))

    one, two = make_runs("one", "stl", DIGITS), make_runs("two", "stl2", DIGITS)
    assert sets(one, two) == ["stl", "stl2"]
    assert sets(one.assign(**{"data.labelled": "x"}), two.assign(**{"data.labelled": "x"})) == [""]
    prints = {"data_fingerprint": "data.source 0f0f, transfer digits 1a1a"}
    assert sets(one.assign(data_fingerprint="0f0f"), one.assign(sweep="other", **prints)) == [""]
    assert sets(one.assign(data_fingerprint="0f0f"), one.assign(sweep="earlier", data_fingerprint=None)) == [""]
    assert sets(one.assign(data_fingerprint="0f0f"), one.assign(data_fingerprint="1a1a")) == ["stl 0f0f", "stl 1a1a"]
    died = two.assign(state="FAILED", **{"data.source": None})
    assert sets(one, two, died) == ["stl", "stl2"]
    assert len(split_by_data(pd.concat([one, two, died], ignore_index=True))["stl2"]) == 12


def test_a_mean_that_holds_a_collapsed_trial_says_so_in_every_format() -> None:
    runs = make_runs("small", "digits", DIGITS)
    runs["collapsed"] = runs["trial_id"] == "small-1-2"
    table = make_table({"small": SPEC}, runs)
    assert [row.cells[0].collapsed for row in table.body] == [0, 1]
    assert any(note.endswith("for all images: overlay_alpha=0.3 (1 of 3)") for note in table.notes)
    for form in ("md", "tex", "html"):
        assert "(3, 1 collapsed)" in render(table, form)
    assert json.loads(render(table, "json"))["rows"][1][TEST]["collapsed"] == 1
    assert AblationFrame(table, "one")[TEST, "collapsed"].tolist()[1] == 1
    failed = make_table({"small": SPEC}, runs.assign(state=["COMPLETE"] * 5 + ["FAILED"]))
    assert [row.cells[0].collapsed for row in failed.body] == [0, 0]  # it is in no mean
