from typing import Any

import pytest
from pydantic import ValidationError

from ssl_sweep.problems import findings_of, key_text
from ssl_sweep.spec import SweepSpec, row_label
from ssl_sweep.spec_table import Table


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
        ("views.auto_augment", "true", "True"),
        (["views.auto_augment", "views.overlay_alpha"], "false, 0.1", "False, 0.1"),
    ],
)
def test_published_rows_are_found_by_value(rows: Any, key: str, label: str) -> None:
    table = table_of({"rows": rows, "published": {"knn/top1_test": {key: 38.1}}})
    assert table.published == {"knn/top1_test": {label: 38.1}}


def test_published_rows_of_cases_and_nulls() -> None:
    search = {"cases": {"mask": {"views.mask_ratio": 0.1}}, "space": {"pretrain.clip_norm": [None, 1]}}
    table = table_of({"published": {"knn/top1_test": {"mask, null": 1}}}, **search)
    assert table.published == {"knn/top1_test": {row_label(["mask", None]): 1}}


def test_rows_that_cannot_be_listed_take_any_figure() -> None:
    search = {"space": {"pretrain.lr": {"low": 0.1, "high": 1}}, "sampler": "random", "trials": 2}
    assert table_of({"published": {"knn/top1_test": {"0.3": 1}}}, **search).published["knn/top1_test"] == {"0.3": 1}


@pytest.mark.parametrize(
    ("table", "key", "text"),
    [
        ({"rows": "views.flip"}, "rows", "is not searched"),
        ({"rows": ["views.overlay_alpha", "views.overlay_alph"]}, "rows[1]", "did you mean 'views.overlay_alpha'?"),
        ({"rows": 3}, "rows", "must be a list"),
        ({"columns": ["knn/top1_tst"]}, "columns[0]", "did you mean 'knn/top1_test'?"),
        ({"columns": "linear/top1_test"}, "columns", "add `linear:` to evaluate"),
        ({"published": {"knn/top1_val": {}}}, "published.knn/top1_val", "is not a column"),
        ({"published": {"knn/top1_test": {"0.1, maybe": 3}}}, "published.knn/top1_test.0.1, maybe", "is not a row"),
        ({"published": {"knn/top1_test": {"0.1, true": "3"}}}, "published.knn/top1_test.0.1, true", "valid number"),
        ({"published": {"knn/top1_test": 3}}, "published.knn/top1_test", "must be a mapping"),
        ({"published": 3}, "published", "must be a mapping"),
        ({"colums": []}, "colums", "did you mean 'columns'?"),
    ],
)
def test_mistakes(table: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SweepSpec.model_validate(values(table))
    found = {key_text(each.loc): f"{each.message}; {each.remedy}" for each in findings_of(raised.value)}
    assert found.keys() == {f"table.{key}"}
    assert text in found[f"table.{key}"]
