"""One rule says which choice is best."""

import pandas as pd

from ssl_sweep.knobs.best import Scores, best_first
from ssl_sweep.knobs.objective import Objective
from ssl_sweep.ledger.best import ranked
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.tables.ablation import ablation

METRIC = "knn/top1_val"
# choice -> its values by seed; choice 1 has one lucky seed
VALUES = {0: [50.0, 52.0, 51.0], 1: [90.0], 2: [53.0, 54.0, 52.0], 3: [60.0, 61.0]}


def test_a_lucky_seed_is_not_the_best_and_fresh_seeds_come_first() -> None:
    scores = {number: Scores(values, missing=3 - len(values)) for number, values in VALUES.items()}
    assert best_first(scores, 1) == [2, 0, 3, 1]
    assert best_first(scores, -1) == [0, 2, 3, 1]
    confirmed = {**scores, 0: Scores(VALUES[0], [1.0, 2.0]), 2: Scores(VALUES[2], [99.0], missing_fresh=1)}
    assert best_first(confirmed, 1) == [0, 2, 3, 1]
    assert best_first({**scores, 4: Scores()}, 1) == [2, 0, 3, 1]
    assert best_first({"a": Scores([1.0]), "b": Scores([1.0])}, 1) == ["a", "b"]
    assert (confirmed[0].value, scores[2].value, Scores().value) == (1.5, 53.0, None)


def test_ledger_page_and_table_agree() -> None:
    trials = [
        Trial(f"{number}-{seed}", number, seed, "COMPLETE", results={METRIC: value})
        for number, values in VALUES.items()
        for seed, value in enumerate(values)
    ]
    assert [number for number, _ in ranked(trials, Objective.parse(f"maximize {METRIC}"))] == [2, 0, 3, 1]
    runs = pd.DataFrame(
        {
            "trial_id": trial.trial_id, "sweep": "demo", "choice": trial.choice, "seed": trial.seed,
            "state": "COMPLETE", "method.name": "moco", "pretrain.lr": trial.choice / 10, METRIC: trial.results[METRIC],
        }
        for trial in trials
    )  # fmt: skip
    search = {"space": {"pretrain.lr": [0.0, 0.1, 0.2, 0.3]}, "objective": f"maximize {METRIC}"}
    page = Sweep("demo", {"search": search}, runs, pd.Timestamp("2026-01-01", tz="UTC"), (), frozenset(), None)
    assert [choice.number for choice in page.choices] == [2, 0, 3, 1]
    assert page.best_first(runs)["choice"].tolist() == [2, 2, 2, 0, 0, 0, 3, 3, 1]
    table = ablation(runs, rows=["pretrain.lr"], columns=[METRIC], objective=f"maximize {METRIC}")
    assert table.selected == {(0.2,)}
    options = {"rows": ["pretrain.lr"], "columns": [METRIC], "objective": f"maximize {METRIC}"}
    assert [row.key for row in ablation(runs, group_by=["method.name"], **options).body] == [("moco", 0.2)]


def test_sweeps_with_fewer_seeds_in_all_are_not_behind() -> None:
    few = pd.DataFrame(
        {"trial_id": ["a", "b"], "sweep": "few", "choice": 0, "seed": [0, 1], "pretrain.lr": 0.1, METRIC: [70.0, 71.0]}
    )
    many = pd.DataFrame(
        {"trial_id": ["c", "d", "e"], "sweep": "many", "choice": 0, "seed": range(3), "pretrain.lr": 0.2, METRIC: 60.0}
    )
    runs = pd.concat([few, many]).assign(state="COMPLETE", **{"method.name": "moco"}).reset_index(drop=True)
    options = {"rows": ["pretrain.lr"], "columns": [METRIC], "objective": f"maximize {METRIC}"}
    assert [row.key for row in ablation(runs, group_by=["method.name"], **options).body] == [("moco", 0.1)]
