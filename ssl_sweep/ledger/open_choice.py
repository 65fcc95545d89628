"""A choice as Optuna has it until it is told the end: where its trials are written, and what the pruner says of it."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import optuna
from optuna.trial import TrialState as OptunaState

from ssl_sweep.ledger.entries import Choice, Trial
from ssl_sweep.trialdir.states import TrialState


class Asked:
    """One choice that Optuna was asked for and has not been told the end of."""

    def __init__(self, asked: optuna.Trial, steps: Iterable[int]) -> None:
        """steps: those that the pruner has been told of."""
        self._asked, self._steps = asked, set(steps)

    @property
    def number_of_steps(self) -> int:
        """How many values the pruner knows."""
        return len(self._steps)

    def write(self, trial: Trial) -> None:
        """Note how one of its trials stands."""
        self._asked.set_user_attr(f"seed:{trial.seed}", asdict(trial))

    def condemn(self, why: str) -> None:
        """Note that the pruner has had enough of it."""
        self._asked.set_user_attr("pruned", why)

    def is_news(self, value: float, step: int) -> bool:
        """Whether the pruner can be told of this: it takes finite values, at steps as they rise."""
        return math.isfinite(value) and step > max(self._steps, default=0)

    def tell_pruner(self, value: float, step: int) -> None:
        """Write down what the pruner is to judge by."""
        self._asked.report(value, step)
        self._steps.add(step)

    def tell_seeds(self, choice: Choice, metric: str) -> None:
        """Have a pruner by seed know every seed that is complete."""
        for step, trial in enumerate(choice.trials):
            if trial.results is not None and step not in self._steps and math.isfinite(trial.results[metric]):
                self.tell_pruner(trial.results[metric], step)

    def is_bad(self) -> bool:
        """What the pruner says."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's, that seeds tie, and Optuna's, that there is nothing to compare
            return self._asked.should_prune()

    def end(self, choice: Choice, metrics: Sequence[str]) -> None:
        """Tell the mean over seeds; of a pruned choice nothing more; one that lacks a seed for another reason failed.

        Samplers leave out what failed, and know of what was pruned that its last value is one of early days.
        """
        study, means = self._asked.study, choice.means(metrics)
        if means is not None:
            study.tell(self._asked, means)
        else:
            pruned = not choice.retriable and any(trial.state == TrialState.PRUNED for trial in choice.trials)
            study.tell(self._asked, state=OptunaState.PRUNED if pruned else OptunaState.FAIL)
