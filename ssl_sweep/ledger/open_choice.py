"""A choice that has not been told to Optuna yet: stores its trials, and asks the pruner about it."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import optuna
from optuna.trial import TrialState as OptunaState

from ssl_sweep.ledger.entries import Choice, Trial
from ssl_sweep.trialdir.states import TrialState


class OpenChoice:
    """One choice whose Optuna trial is running."""

    def __init__(self, trial: optuna.Trial, steps: Iterable[int]) -> None:
        """steps: those that have been reported to the pruner."""
        self._trial, self._steps = trial, set(steps)

    @property
    def num_reports(self) -> int:
        """The number of values that the pruner has."""
        return len(self._steps)

    def write(self, trial: Trial) -> None:
        """Store the state of one of its trials."""
        self._trial.set_user_attr(f"seed:{trial.seed}", asdict(trial))

    def mark_pruned(self, why: str) -> None:
        """Store that the choice is pruned."""
        self._trial.set_user_attr("pruned", why)

    def accepts(self, value: float, step: int) -> bool:
        """Whether the pruner takes this report: it needs finite values and rising steps."""
        return math.isfinite(value) and step > max(self._steps, default=0)

    def report(self, value: float, step: int) -> None:
        """Report a value to the pruner."""
        self._trial.report(value, step)
        self._steps.add(step)

    def report_seeds(self, choice: Choice, metric: str) -> None:
        """Report every complete seed that a pruner by seed does not have yet."""
        for step, trial in enumerate(choice.trials):
            if trial.results is not None and step not in self._steps and math.isfinite(trial.results[metric]):
                self.report(trial.results[metric], step)

    def should_prune(self) -> bool:
        """The pruner's decision."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy warns of tied seeds, Optuna that there is nothing to compare with
            return self._trial.should_prune()

    def tell(self, choice: Choice, metrics: Sequence[str]) -> None:
        """Report the means over seeds; without them, PRUNED if a pruner ended the choice, else FAIL.

        Samplers ignore what failed. Of a pruned choice they know that its last value is an early one.
        """
        study, means = self._trial.study, choice.means(metrics)
        if means is not None:
            study.tell(self._trial, means)
        else:
            pruned = not choice.retriable and any(trial.state == TrialState.PRUNED for trial in choice.trials)
            study.tell(self._trial, state=OptunaState.PRUNED if pruned else OptunaState.FAIL)
