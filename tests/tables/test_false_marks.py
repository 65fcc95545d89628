"""Under the null hypothesis, a table's marks against the baseline are as rare as their level says."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.stats import paired_t
from ssl_sweep.tables.table import Cell

VAL, TESTS = "knn/top1_val", [f"knn/top1_{number}_test" for number in range(30)]
GROUP, SETTING = "method.name", "views.overlay_alpha"
TABLES, LEVEL = 40, 0.06
SHARED = 0.7  # of a trial's scores on validation and test
FRESH = 1000  # the first fresh seed


def null(settings: int, seeds: int, rng: np.random.Generator, confirmed: int = 0) -> pd.DataFrame:
    """A baseline and equal settings of one method: validation and test scores of a trial correlate.

    confirmed: of so many settings with the best means on validation, and of the baseline, there are as many fresh
    seeds as the search has.
    """
    choices = np.arange(settings + 1)
    # columns are independent samples of a test where validation chooses nothing
    found = scores(choices, range(seeds), rng, SHARED if settings > 1 else 0.0)
    if confirmed:
        means = found[found["choice"] > 0].groupby("choice")[VAL].mean()
        # nor do fresh scores choose, unless there are several
        shared = SHARED if confirmed > 1 else 0.0
        again = scores(np.array([0, *means.nlargest(confirmed).index]), range(FRESH, FRESH + seeds), rng, shared)
        found = pd.concat([found, again], ignore_index=True)
    return found


def scores(choices: Any, seeds: range, rng: np.random.Generator, shared_part: float = SHARED) -> pd.DataFrame:
    choice, seed = (each.ravel() for each in np.meshgrid(choices, seeds, indexing="ij"))
    shared = rng.normal(size=len(choice))
    own = {
        name: 50 + shared_part * shared + (1 - shared_part**2) ** 0.5 * rng.normal(size=len(choice)) for name in TESTS
    }
    frame = pd.DataFrame(
        {
            "trial_id": [f"{c}-{s}" for c, s in zip(choice, seed, strict=True)],
            "sweep": "null",
            "choice": choice,
            "seed": seed,
            "state": "COMPLETE",
            "confirms": seed >= FRESH,
            GROUP: np.where(choice == 0, "baseline", "ours"),
            SETTING: np.where(choice == 0, np.nan, choice),
            VAL: 50 + shared,
            **own,
        }
    )
    return frame.astype({"trial_id": object, "sweep": object, "state": object, GROUP: object})  # fast to iterate


def is_marked(cell: Cell) -> bool:
    return bool(cell.mark or (cell.confirmed is not None and cell.confirmed.mark))


def share_of_marked(settings: int, seeds: int, confirmed: int = 0, tables: int = TABLES, **options: Any) -> float:
    """The share of a table's columns that have a mark."""
    rng = np.random.default_rng([settings, seeds, confirmed])
    chosen = {"rows": [SETTING], "columns": TESTS, "objective": f"maximize {VAL}", "baseline": "baseline", **options}
    shares = []
    for _ in range(tables):
        table = ablation(null(settings, seeds, rng, confirmed), **chosen)
        columns = zip(*(row.cells for row in table.body), strict=True)
        shares.append(np.mean([any(map(is_marked, cells)) for cells in columns]))
    return float(np.mean(shares))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("settings", [1, 10, 40])
def test_the_best_of_equal_settings_has_no_more_false_marks_than_its_level(settings: int, seeds: int) -> None:
    searched = share_of_marked(settings, seeds, tables=TABLES if settings == 1 else 3, group_by=[GROUP])
    assert searched <= LEVEL
    assert settings == 1 or searched == 0  # the seeds that chose the row do not test it
    assert share_of_marked(settings, seeds, confirmed=1, group_by=[GROUP]) <= LEVEL


def test_a_row_that_fresh_seeds_chose_from_several_keeps_its_level() -> None:
    assert share_of_marked(10, 5, confirmed=3, tables=TABLES // 2, group_by=[GROUP]) <= LEVEL


@pytest.mark.parametrize("confirmed", [0, 3])
def test_all_rows_together_keep_the_level(confirmed: int) -> None:
    options = {"rows": [GROUP, SETTING], "baseline": "baseline, null"}
    assert share_of_marked(10, 5, confirmed, tables=TABLES // 2, **options) <= LEVEL


def test_the_seeds_that_chose_would_mark_far_more() -> None:
    """What the rule is for: a paired test by the seeds that chose the best of 40 settings."""
    rng = np.random.default_rng(0)
    marked = 0
    for _ in range(300):
        found = null(40, 10, rng)
        best = found[found["choice"] > 0].groupby("choice")[VAL].mean().idxmax()
        test = {choice: found.loc[found["choice"] == choice, TESTS[0]].tolist() for choice in (0, best)}
        marked += (paired_t(test[best], test[0]) or 1.0) < 0.05
    assert marked / 300 > 0.1


def test_a_real_difference_is_marked_once_it_is_confirmed() -> None:
    found = null(10, 5, np.random.default_rng(0), confirmed=1)
    found[TESTS] += 10.0 * (found[[GROUP]].to_numpy() == "ours")
    options = {"rows": [SETTING], "columns": TESTS, "objective": f"maximize {VAL}", "group_by": [GROUP]}
    _, ours = ablation(found, baseline="baseline", **options).body
    assert all(cell.mark == "" and cell.confirmed is not None and cell.confirmed.mark for cell in ours.cells)
    unconfirmed = ablation(found[~found["confirms"]], baseline="baseline", **options)
    assert not any(is_marked(cell) for cell in unconfirmed.body[1].cells)
    assert any("search.confirm" in note for note in unconfirmed.notes)
