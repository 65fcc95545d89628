import pytest

from ssl_sweep.tables.labels import display_name, name_with_unit, row_key, row_label, row_name, value_text


def test_display_names() -> None:
    assert display_name("views.overlay_alpha") == "overlay_alpha"
    assert display_name("pretrain.lr", ["pretrain.lr", "evaluate.finetune.lr"]) == "pretrain.lr"
    assert display_name("method.name") == "method"
    assert display_name("finetune/top1_test") == "finetune top1 (test)"
    assert display_name("knn/top1_best_val") == "knn top1 best (val)"
    assert display_name("pretrain/loss") == "pretrain loss"


def test_percentages_have_their_unit() -> None:
    assert name_with_unit("transfer/top1_pets_test") == "transfer top1 pets (test), %"
    assert name_with_unit("detection/ap50_val") == "detection ap50 (val), %"
    assert name_with_unit("label_free/alpha_r2_test") == "label_free alpha r2 (test)"
    assert name_with_unit("knn/mean_per_class_test") == "knn mean per class (test), %"
    assert name_with_unit("pretrain/loss") == "pretrain loss"


def test_value_texts() -> None:
    assert [value_text(value) for value in (None, True, 3, 0.30000000000000004, "moco", [1, 2])] == [
        "–", "true", "3", "0.3", "moco", "[1, 2]",
    ]  # fmt: skip


def test_a_row_in_a_note() -> None:
    assert row_name(("moco", 0.3), ["method.name", "views.overlay_alpha"]) == "method=moco, overlay_alpha=0.3"


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("0.0", [0]),
        (0, [0.0]),
        ("1e-1", [0.1]),
        ("True", [True]),
        (False, ["false"]),
        ("null", [None]),
        ("None , moco", [None, "moco"]),
        (("moco", 0.3), ["moco", 0.3]),
        ("[-6, 6], 0.3", [[-6, 6], 0.3]),
        ("crop, flip", ["crop, flip"]),
        ("nan", ["nan"]),
    ],
)
def test_a_label_is_found_by_its_values(label: object, values: list[object]) -> None:
    assert row_key(label) == row_key(row_label(values))


@pytest.mark.parametrize(("one", "other"), [("Mask", "mask"), ("0.1", "0.10001"), ("a, b", "b, a"), ("1", "1, 1")])
def test_other_labels_are_other_rows(one: str, other: str) -> None:
    assert row_key(one) != row_key(other)
