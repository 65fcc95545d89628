from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from ssl_sweep.knobs.problems import findings_of, key_text
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.table import Table


def values(table: dict[str, Any] | None, **search: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "data": {"source": "digits", "image_size": 8},
        "encoder": "resnet18",
        "method": "autoencoder",
        "evaluate": {"finetune": {}, "knn": {}},
        "search": search or {"space": {"views.overlay_alpha": [0, 0.1], "views.auto_augment": [False, True]}},
        "table": table,
    }


def table_of(table: dict[str, Any] | None, **search: Any) -> Table:
    return SweepSpec.model_validate(values(table, **search)).table


def test_missing_parts_are_derived() -> None:
    for given in (None, {}, {"rows": [], "columns": []}):
        table = table_of(given)
        assert table.rows == ("views.overlay_alpha", "views.auto_augment")
        assert table.columns == ("finetune/top1_test", "knn/top1_test")
        assert table.published == {}


def test_one_name_is_a_list_of_one() -> None:
    table = table_of({"rows": "views.auto_augment", "columns": "knn/top1_best_test"})
    assert (table.rows, table.columns) == (("views.auto_augment",), ("knn/top1_best_test",))


@pytest.mark.parametrize(
    ("rows", "key", "label"),
    [
        ("views.overlay_alpha", "0", "0.0"),
        ("views.overlay_alpha", "0.10", "0.1"),
        ("views.overlay_alpha", "1e-1", "0.1"),
        ("views.auto_augment", "true", "true"),
        ("views.auto_augment", "True", "true"),
        (["views.auto_augment", "views.overlay_alpha"], "false, 0.1", "false, 0.1"),
    ],
)
def test_published_rows_are_found_by_value(rows: Any, key: str, label: str) -> None:
    table = table_of({"rows": rows, "published": {"knn/top1_test": {key: 38.1}}})
    assert table.published == {"knn/top1_test": {label: 38.1}}


def test_published_rows_of_cases_and_nulls() -> None:
    search = {"cases": {"mask": {"views.mask_ratio": 0.1}}, "space": {"pretrain.clip_norm": [None, 1]}}
    table = table_of({"published": {"knn/top1_test": {"mask, null": 1}}}, **search)
    assert table.published == {"knn/top1_test": {"mask, null": 1}}


def test_rows_that_cannot_be_listed_take_any_figure() -> None:
    search = {"space": {"pretrain.lr": {"low": 0.1, "high": 1}}, "sampler": "random", "trials": 2}
    assert table_of({"published": {"knn/top1_test": {"0.3": 1}}}, **search).published["knn/top1_test"] == {"0.3": 1}


@pytest.mark.parametrize("rows", ["views.flip", "method.name", "data.source", "evaluate.knn.k", "seed", "sweep"])
def test_any_parameter_is_a_row(rows: str) -> None:
    table = table_of({"rows": rows, "published": {"knn/top1_test": {"0.5": 1}}, "baseline": "0.5"})
    assert (table.rows, table.published, table.baseline) == ((rows,), {"knn/top1_test": {"0.5": 1}}, "0.5")


def test_parameters_of_the_cases_methods_are_rows() -> None:
    search = {"cases": {"a": {"method": "moco"}, "b": {}}}
    assert table_of({"rows": "method.temperature"}, **search).rows == ("method.temperature",)


def test_every_metric_that_a_trial_reports_is_a_column() -> None:
    columns = ("pretrain/loss", "pretrain/seconds", "pretrain/effective_rank", "knn/seconds", "knn/top1_val")
    assert table_of({"columns": list(columns)}).columns == columns


@pytest.mark.parametrize(("written", "label"), [(0, "0.0"), ("0.10", "0.1"), (0.1, "0.1")])
def test_the_baseline_is_found_by_value(written: Any, label: str) -> None:
    assert table_of({"rows": "views.overlay_alpha", "baseline": written}).baseline == label
    switch = table_of({"rows": "views.auto_augment", "baseline": True})
    assert switch.baseline == "true"


def test_groups_by_parameters() -> None:
    table = table_of({"group_by": "method.name", "baseline": "autoencoder", "published": {"knn/top1_test": {"x": 1}}})
    assert (table.group_by, table.baseline) == (("method.name",), "autoencoder")
    searched = table_of({"group_by": ["views.auto_augment"], "baseline": True, "rows": ["views.overlay_alpha"]})
    assert searched.baseline == "true"


def test_groups_of_rows_by_name() -> None:
    groups = {"without": [0], "with": "0.10"}
    table = table_of({"rows": "views.overlay_alpha", "group_by": groups, "published": {"knn/top1_test": {"with": 3}}})
    assert table.group_by == {"without": ("0.0",), "with": ("0.1",)}
    assert table.published == {"knn/top1_test": {"with": 3}}
    assert table_of(table.model_dump(mode="json")) == table  # as the ledger stores it


@pytest.mark.parametrize(
    ("table", "valid"),
    [
        ({"group_by": "a", "baseline": 0.1, "interval": "t", "test": "wilcoxon"}, True),
        ({"group_by": ["a", "b"], "baseline": True}, True),
        ({"group_by": {"x": [0.1, "b"], "y": "c", "z": False}, "baseline": None}, True),
        ({"baseline": [0.1]}, False),
        ({"group_by": 3}, False),
        ({"group_by": {"x": {"y": 1}}}, False),
        ({"interval": "sem"}, False),
    ],
)
def test_the_schema_takes_what_the_section_takes(table: dict[str, Any], valid: bool) -> None:
    assert jsonschema.Draft202012Validator(Table.model_json_schema()).is_valid(table) == valid


@pytest.mark.parametrize(
    ("table", "key", "text"),
    [
        ({"rows": "views.flop"}, "rows", "is no parameter of this spec's trials; did you mean 'views.flip'?"),
        ({"rows": ["views.overlay_alpha", "views.overlay_alph"]}, "rows[1]", "did you mean 'views.overlay_alpha'?"),
        ({"rows": 3}, "rows", "must be a list"),
        ({"rows": "method.temperature"}, "rows", "is no parameter"),
        ({"columns": ["knn/top1_tst"]}, "columns[0]", "did you mean 'knn/top1_test'?"),
        ({"columns": "linear/top1_test"}, "columns", "add `linear:` to evaluate"),
        ({"published": {"knn/top1_val": {}}}, "published.knn/top1_val", "is not a column"),
        ({"published": {"knn/top1_test": {"0.1, maybe": 3}}}, "published.knn/top1_test.0.1, maybe", "is not a row"),
        ({"published": {"knn/top1_test": {"0.1, true": "3"}}}, "published.knn/top1_test.0.1, true", "valid number"),
        ({"published": {"knn/top1_test": 3}}, "published.knn/top1_test", "must be a mapping"),
        ({"published": 3}, "published", "must be a mapping"),
        ({"baseline": 0.7}, "baseline", "is not a row of the table"),
        ({"baseline": [0.1]}, "baseline", "must be a valid string"),
        ({"interval": "sem"}, "interval", "must be 'std', 't' or 'bootstrap'"),
        ({"test": "u"}, "test", "must be 't' or 'wilcoxon'"),
        ({"group_by": "method.nam"}, "group_by", "did you mean 'method.name'?"),
        ({"group_by": ["views.flip", "views.flop"]}, "group_by[1]", "did you mean 'views.flip'?"),
        ({"group_by": 3}, "group_by", "must be a list"),
        ({"rows": "views.overlay_alpha", "group_by": {"a": [0, 0.2]}}, "group_by.a[1]", "is not a row"),
        ({"rows": "views.overlay_alpha", "group_by": {"a": [0], "b": 0}}, "group_by.b[0]", "is in group 'a' too"),
        ({"colums": []}, "colums", "did you mean 'columns'?"),
    ],
)
def test_mistakes(table: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SweepSpec.model_validate(values(table))
    found = {key_text(each.loc): f"{each.message}; {each.remedy}" for each in findings_of(raised.value)}
    assert found.keys() == {f"table.{key}"}
    assert text in found[f"table.{key}"]


def test_cases_that_are_the_same_number_are_named_as_they_are_written() -> None:
    cases = {name: {"views.gray": gray} for gray, name in zip((0.1, 0.2, 0.3), ("1.1", "1.10", "2"), strict=True)}
    figures = {"1.1": 50, "1.10": 60, "2.0": 70}
    table = table_of({"published": {"knn/top1_test": figures}, "baseline": "1.10"}, cases=cases)
    assert table.published == {"knn/top1_test": {"1.1": 50, "1.10": 60, "2": 70}}
    assert table.baseline == "1.10"
    assert table_of({"baseline": 2}, cases=cases).baseline == "2"
    with pytest.raises(ValidationError) as error:
        table_of({"baseline": 1.10, "published": {"knn/top1_test": {"1.100": 1}}}, cases=cases)
    found = {key_text(finding.loc): (finding.message, finding.remedy) for finding in findings_of(error.value)}
    wanted = ("may be one of 2 rows", "write one in quotes: '1.1', '1.10'")
    assert found == {"table.baseline": wanted, "table.published.knn/top1_test.1.100": wanted}
