"""The pruners of a spec's `search`, and checks that the spec reports the metric that they judge."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.knobs.objective import Objective
from ssl_sweep.knobs.problems import Finding, did_you_mean, validation_error
from ssl_sweep.spec.section import Section
from ssl_sweep.training.health import METRICS as HEALTH_METRICS

NONE = "none"
BY_EPOCH = ("median", "asha", "hyperband")
PRUNE_ON = "maximize pretrain/knn_top1_val"  # needs no evaluation, and no labels in training

MinEpochs = Annotated[int, Field(ge=1, description="no choice is pruned before this epoch")]


class Median(Section):
    """Prunes a choice that is below the median of the complete choices at the same epoch."""

    called: ClassVar[str] = "pruner median"

    name: Literal["median"]
    min_epochs: MinEpochs = 1
    min_choices: Annotated[int, Field(ge=1, description="no choice is pruned before this many are complete")] = 5


class Halving(Section):
    """Lets one in `reduction_factor` choices continue at each rung; rungs are that many times further apart.

    Hyperband varies the first rung.
    """

    called: ClassVar[str] = "pruners asha and hyperband"

    name: Literal["asha", "hyperband"]
    min_epochs: MinEpochs = 1
    reduction_factor: Annotated[
        int,
        Field(
            ge=2, description="one choice in this many continues at a rung; the next rung is this many times further"
        ),
    ] = 3


class Wilcoxon(Section):
    """Prunes between seeds: a choice that a signed-rank test finds worse than the best one."""

    called: ClassVar[str] = "pruner wilcoxon"

    name: Literal["wilcoxon"]
    p_threshold: Annotated[
        float, Field(gt=0, lt=1, description="prune if the test against the best choice has p below this")
    ] = 0.1
    min_seeds: Annotated[int, Field(ge=2, description="no choice is pruned before this many seeds are complete")] = 2


Pruner = Median | Halving | Wilcoxon
PRUNERS: dict[str, type[Pruner]] = {"median": Median, "asha": Halving, "hyperband": Halving, "wilcoxon": Wilcoxon}


def read_pruner(value: Any) -> Any:
    """Read `asha`, or `{name: asha, min_epochs: 3}`, into its section; `none` stays. Raises ValidationError."""
    if value == NONE or isinstance(value, Section):
        return value
    settings = {"name": value} if isinstance(value, str) else value
    if not isinstance(settings, dict) or settings.get("name") not in PRUNERS:
        options = [NONE, *PRUNERS]
        given = settings.get("name") if isinstance(settings, dict) else None
        remedy = did_you_mean(given, options) if isinstance(given, str) and given != NONE else ""
        written = f"write one of {', '.join(options)}, or {{name: ..., settings}}"
        raise validation_error(Finding((), value, "names no pruner", remedy or written))
    return PRUNERS[settings["name"]].model_validate(settings)


def read_prune_on(raw: Mapping[str, Any], objective: str, evaluate: Mapping[str, Mapping[str, Any]]) -> Any:
    """The direction and metric that an epoch pruner judges: by default the objective, if it is reported by epoch.

    Args:
        raw: the `search` section as it is in the file.
        objective: the search's.
        evaluate: the evaluations with their settings.

    Raises:
        ValidationError: it names no metric that is reported while a trial trains.
    """
    given, pruner = raw.get("prune_on", ""), raw.get("pruner", NONE)
    name = pruner.get("name") if isinstance(pruner, dict) else pruner
    if not isinstance(given, str):
        return given
    if name not in BY_EPOCH:
        if given.strip():
            message = f"is what an epoch pruner judges by, and the pruner is {name}"
            raise validation_error(Finding((), given, message, f"leave it out, or use one of {', '.join(BY_EPOCH)}"))
        return ""
    known = [
        metric for stage, settings in evaluate.items() for metric in load_evaluation(stage).epoch_metrics(settings)
    ]
    if not given.strip():
        metric = Objective.parse(objective).metric
        return objective if metric in known or metric.startswith("pretrain/") else PRUNE_ON
    options = ["pretrain/loss", *(f"pretrain/{metric}" for metric in HEALTH_METRICS), *known]
    judged = parsed_objective(given, PRUNE_ON)
    # of an evaluation that trains but reports this once: refused at launch (`launch.py`), but some stored specs have it
    known += [f"{stage}/top1_val" for stage, settings in evaluate.items() if load_evaluation(stage).epochs(settings)]
    if judged.metric not in (*options, *known):
        remedy = did_you_mean(judged.metric, options)
        raise validation_error(Finding((), given, "is not reported while a trial trains", remedy))
    return str(judged)


def parsed_objective(text: str, example: str) -> Objective:
    """Read `maximize METRIC`; the validation error for another text suggests the example."""
    try:
        return Objective.parse(text)
    except ValueError:
        message = "must be `maximize METRIC` or `minimize METRIC`"
        raise validation_error(Finding((), text, message, f"write `{example}`")) from None
