"""A sweep's best choices, from the trials of its ledger."""

import math
from collections import defaultdict
from collections.abc import Iterable

from ssl_sweep.knobs.best import Scores, best_first
from ssl_sweep.knobs.objective import Objective
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.trialdir.states import TrialState


def scores_of(trials: Iterable[Trial], metric: str) -> dict[int, Scores]:
    """The finite values of a metric by choice, over complete trials of one sweep: its choices all want the same seeds.

    Empty for a choice without any.
    """
    values: dict[int, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for trial in trials:
        value = (trial.results or {}).get(metric, math.nan)
        if trial.state == TrialState.COMPLETE and math.isfinite(value):
            values[trial.choice][trial.confirms].append(value)
    wanted, wanted_fresh = (max((len(each[kind]) for each in values.values()), default=0) for kind in (0, 1))
    return {
        number: Scores(searched, fresh, wanted - len(searched), wanted_fresh - len(fresh))
        for number, (searched, fresh) in values.items()
    }


def ranked(trials: Iterable[Trial], objective: Objective) -> list[tuple[int, Scores]]:
    """The numbers of the choices with a value of the objective, best first, with their values."""
    scores = scores_of(trials, objective.metric)
    return [(number, scores[number]) for number in best_first(scores, objective.sign)]
