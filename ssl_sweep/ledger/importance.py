"""Estimates how much each knob matters, with Optuna."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


def importances(
    choices: Sequence[Mapping[str, Any]], objective: Sequence[float], logarithmic: Sequence[str] = ()
) -> dict[str, float]:
    """Each knob's share of the objective's variance that the knobs explain, by fANOVA; the shares sum to 1.

    Numbers vary over the range of their values, `logarithmic` knobs by their logarithm; anything else is a category.
    Knobs with a single value are left out. Empty if the objective is the same for all choices.

    Source: Hutter, Hoos & Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance"; seeded.
    """
    if len(set(objective)) < 2:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # with scikit-learn: a second

    listed = {knob: list(dict.fromkeys(choice[knob] for choice in choices)) for knob in choices[0]}
    ranges: dict[str, BaseDistribution] = {
        knob: FloatDistribution(min(values), max(values), log=knob in logarithmic)
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        else CategoricalDistribution(range(len(values)))  # by position: Optuna warns of values that are lists
        for knob, values in listed.items()
        if len(values) > 1
    }
    study = optuna.create_study()
    for choice, value in zip(choices, objective, strict=True):
        places = {
            knob: listed[knob].index(choice[knob]) if isinstance(range_, CategoricalDistribution) else choice[knob]
            for knob, range_ in ranges.items()
        }
        study.add_trial(create_trial(params=places, distributions=ranges, value=value))
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {knob: float(share) for knob, share in shares.items()}
