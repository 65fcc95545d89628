"""The note that says which share of the training images a figure had beside a published one."""

import pandas as pd
import pytest

from ssl_sweep.tables.shares import difference_note

WORDS = "difference: our mean minus the published figure"
ALL = f"{WORDS}, which had all training images where ours had "


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, WORDS),
        ({"data.val_fraction": 0.0, "data.train_images": None}, WORDS),
        ({"data.val_fraction": 0.1}, f"{ALL}90 % (data.val_fraction 0.1)"),
        (
            {"data.val_fraction": 0.1, "evaluate.linear.refit": True, "evaluate.knn.refit": True},
            f"{ALL}90 % (data.val_fraction 0.1), and the last training of linear those held out as well (refit)",
        ),
        ({"data.val_fraction": 0.1, "evaluate.linear.refit": False}, f"{ALL}90 % (data.val_fraction 0.1)"),
        ({"data.val_fraction": 0.1, "data.train_images": 2000}, f"{ALL}2000 (data.train_images)"),
    ],
)
def test_the_note_says_what_the_published_figure_had(parameters: dict[str, object], expected: str) -> None:
    assert difference_note(pd.DataFrame([parameters, parameters]), ["linear/top1_test"]) == expected
