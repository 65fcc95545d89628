"""Trains the setting that validation has chosen again, with the validation images, for the test scores."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ssl_sweep.data.splits import Splits
from ssl_sweep.training.loop import Report, Stage
from ssl_sweep.training.parts import Results, run_parts

Refit = Annotated[
    bool,
    Field(description="train the chosen setting again on train + val, whose test scores are then the results"),
]
Fit = Callable[[Splits, Results | None, Stage], Results]


def fit_and_refit(fit: Fit, splits: Splits, stage: Stage, *, refit: bool, epochs: int) -> Results:
    """The results of `fit(splits, None, stage)`, the test scores with `refit` of another `fit` on train + val.

    The second one gets the first one's results, which say what was chosen. `top1_best_test` stays the first one's: no
    images are left that could choose an epoch. Each resumes by itself; epochs of the second follow those of the first,
    of which no test score is reported, and the results are reported after both.
    """
    if not refit:
        return fit(splits, None, stage)

    def choose(_name: str, part: Stage) -> Results:
        return fit(splits, None, replace(part, report=without_test(stage.report)))

    chosen = run_parts(["choose"], choose, stage)["choose"]
    later = replace(stage, report=lambda metrics, epoch: stage.report(again(metrics), epochs + epoch))

    def fit_again(_name: str, part: Stage) -> Results:
        return fit(splits.joined(), chosen, replace(part, report=later.report))

    refitted = run_parts(["choose", "refit"], fit_again, stage)["refit"]
    results = chosen | {name: value for name, value in refitted.items() if name.endswith("_test")}
    stage.report(results, 2 * epochs + 1)
    return results


def without_test(report: Report) -> Report:
    """A report of the same metrics without those of the test split."""
    return lambda metrics, epoch: report({name: x for name, x in metrics.items() if not name.endswith("_test")}, epoch)


def again(metrics: Results) -> Results:
    """The metrics of an epoch of the second training, by names that differ from the first one's but for test scores."""
    return {name if name.endswith(("_test", "_per_second")) else f"{name}_refit": x for name, x in metrics.items()}
