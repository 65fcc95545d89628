"""What a new search learns from earlier sweeps: their complete choices, as far as they are choices of its own space."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, create_trial

from ssl_sweep.ledger.sampling import Knobs
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trialdir.states import TrialState

if TYPE_CHECKING:
    from ssl_sweep.ledger.entries import Choice

FROM = "from"  # marks what a study was taught: the sweep and the number of the choice there
CMAES_NEEDS = 10  # its first mean and spread are those of the best tenth


def lessons(earlier: Mapping[str, Sequence["Choice"]], spec: SweepSpec, knobs: Knobs) -> tuple[list[FrozenTrial], str]:
    """The choices of earlier sweeps that fit, as finished trials for the study, and a sentence on all of them.

    One fits that has this spec's knobs and no others, with values in their ranges, and its objective for every seed.
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
    said = f"search.from: learns from {len(taught)} choices of {', '.join(earlier)}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return taught, f"{said}; left out: {reasons}" if reasons else said


def _lesson(mark: str, choice: "Choice", spec: SweepSpec, knobs: Knobs) -> FrozenTrial | str:
    """The trial, or why there is none."""
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
