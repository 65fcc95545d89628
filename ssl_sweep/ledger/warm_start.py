"""Teaches a new search the complete choices of earlier sweeps that fit its own space."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, create_trial

from ssl_sweep.ledger.sampling import Knobs
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trialdir.states import TrialState

if TYPE_CHECKING:
    from ssl_sweep.ledger.entries import Choice

FROM = "from"  # the user attribute of a taught trial: its sweep and the number of its choice there
CMAES_NEEDS = 10  # choices: CMA-ES starts with the mean and spread of the best tenth


def lessons(earlier: Mapping[str, Sequence["Choice"]], spec: SweepSpec, knobs: Knobs) -> tuple[list[FrozenTrial], str]:
    """Make finished trials for the study from the choices of earlier sweeps that fit, and a sentence about all choices.

    A choice fits if it has exactly this spec's knobs, with values in their ranges, and the objective for every seed.
    """
    taught, left_out = [], Counter[str]()
    for name, choices in earlier.items():
        for choice in choices:
            if all(trial.state == TrialState.COMPLETE for trial in choice.trials):
                lesson = _lesson(f"{name}/{choice.number}", choice, spec, knobs)
                if isinstance(lesson, str):
                    left_out[lesson] += 1
                else:
                    taught.append(lesson)
    summary = f"search.from: learns from {len(taught)} choices of {', '.join(earlier)}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return taught, f"{summary}; left out: {reasons}" if reasons else summary


def _lesson(mark: str, choice: "Choice", spec: SweepSpec, knobs: Knobs) -> FrozenTrial | str:
    """Return the finished trial, or the reason why the choice does not fit."""
    params, distributions = knobs.params(choice.knobs), knobs.distributions(choice.knobs)
    if params.keys() != distributions.keys():
        return "with other knobs"
    means = choice.means(spec.search.metrics)
    if means is None:
        return f"without {' or '.join(spec.search.metrics)}"
    known = {trial.seed: (trial.results or {})[spec.search.primary.metric] for trial in choice.trials}
    steps = {at: known[seed] for at, seed in enumerate(spec.search.seeds) if seed in known}
    try:
        return create_trial(
            params=params,
            distributions=distributions,
            values=means,
            user_attrs={FROM: mark},
            intermediate_values=steps if spec.search.prunes_by == "seed" else None,
        )
    except ValueError:  # Optuna's: a value is not in its knob's distribution
        return "out of range"
