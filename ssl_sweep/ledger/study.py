"""One sweep's Optuna study as the driver of the sweep works with it.

Each call here is one transaction. A driver that earlier versions left without one, killed between two writes, leaves a
ledger that `open_ledger` can continue from: a choice without its knobs gets them, a RUNNING trial is started again.
"""

import math
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from ssl_sweep.ledger import compat, rules
from ssl_sweep.ledger.cached_storage import CachedStudyStorage
from ssl_sweep.ledger.entries import Choice, Notes, Trial
from ssl_sweep.ledger.open_choice import OpenChoice
from ssl_sweep.ledger.proposals import Proposals
from ssl_sweep.ledger.reader import CONFIRM, INSTEAD_OF, SETTINGS, LedgerReader, choice_number, setting_key
from ssl_sweep.ledger.sampling import pruner, suggest
from ssl_sweep.spec.choices import others_than
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trialdir.states import TrialState


class Ledger(LedgerReader):
    """One sweep's study, for the only process that writes its choices: what it has read once stays true.

    A pruner by epoch watches the first seed of a choice; the other seeds run once that one is complete. A pruner by
    seed decides after each seed whether the next one runs. Its decision is stored before anybody acts on it.
    """

    def __init__(self, study: optuna.Study, spec: SweepSpec, notes: Notes, storage: CachedStudyStorage) -> None:
        """storage: the study's."""
        super().__init__(study, spec, notes)
        self._storage = storage
        if (own := pruner(spec)) is not None:
            study.pruner = own
        self._proposals = Proposals(study, spec, self._knobs, self._wanted)
        self._open: dict[int, OpenChoice] = {}  # choices that Optuna has not been told the end of, by number
        with self.transaction():
            for frozen in self._unfinished():
                self._proposals.set_sampler(self._position(choice_number(frozen)))
                self._take_up(compat.running_trial(study, frozen))

    def transaction(self) -> AbstractContextManager[None]:
        """Write what the block changes in one transaction; nobody may act on it before it has ended."""
        return self._storage.transaction()

    def ask(self) -> Choice | None:
        """The next choice, or None when the search has as many as it wants."""
        with self.transaction():
            position = self.num_searched
            if self._enqueued:
                self._enqueued -= 1
                return self._take_up(self._proposals.ask(position))
            if position >= self._wanted:
                return None
            self._proposals.enqueue(position)
            return self._take_up(self._proposals.ask(position), untried=True)

    def confirm(self) -> list[Trial]:
        """Once the search is over, add the missing trials with fresh seeds to the best choices, and return these.

        All trials of a choice are stored before any runs: which choices are best may change when a sweep is extended,
        or when a failed choice is tried again.
        """
        added = self._unconfirmed() if self.searched else {}
        for number, trials in added.items():
            self._store_confirming(number, (*self._choices[number].confirming, *trials))
        return [trial for trials in added.values() for trial in trials]

    @property
    def pruned_running(self) -> list[Trial]:
        """Trials that were pruned while they ran, and have not ended yet."""
        if self.spec.search.prunes_by != "epoch":
            return []
        pruned = [choice for choice in self._choices.values() if choice.pruned is not None]
        return [choice.trials[0] for choice in pruned if not choice.trials[0].ended]

    def report(self, trial: Trial, metrics: Mapping[str, float], epoch: int) -> str | None:
        """Report the metrics after an epoch to an epoch pruner; returns the reason if the trial is to be pruned.

        Ignores an epoch that is reported again, or after a later one: a pruner takes rising epochs.
        """
        search, number = self.spec.search, trial.choice
        choice = self._choices[number]
        if search.prunes_by != "epoch" or trial.seed != choice.trials[0].seed or choice.pruned is not None:
            return None
        value, open_choice = metrics.get(search.prune_objective.metric, math.nan), self._open[number]
        if not open_choice.accepts(value, epoch):
            return None
        with self.transaction():
            open_choice.report(search.prune_sign * value, epoch)
            if not open_choice.should_prune():
                return None
            why = f"pruned at epoch {epoch}, with {search.prune_objective.metric} {value:.4g}"
            self._mark_pruned(number, why)
            return why

    def update(self, trial: Trial) -> list[Trial]:
        """Store a trial's new state; if it was the last of its choice, tell the sampler.

        Returns the trials of its choice that this ends before they have run.
        """
        with self.transaction():
            self._write(trial)
            return [] if trial.confirms else self._conclude(trial.choice)

    def retry(self, choice: Choice, chosen: Collection[str]) -> None:
        """Reset the chosen trials of a choice, which keep their ids.

        Optuna cannot change what it was told: an ended choice continues as a new Optuna trial with the same knobs, and
        with all that the sampler and the pruner know of the old one.
        """
        fresh = [trial for trial in choice.confirming if trial.trial_id in chosen]
        with self.transaction():
            for trial in fresh:
                self._write(trial.reset())
            if len(fresh) < len(chosen):
                self._retry(choice, chosen)

    def repeat(self, choice: Choice, settings: Mapping[str, Any]) -> Choice | None:
        """Add a choice with the knobs of a failed one and other settings; None if there is one."""
        settings = {**choice.settings, **settings}
        key = setting_key({**choice.knobs, **settings})
        if any(setting_key(other.knobs) == key for other in self.choices):
            return None
        with self.transaction():
            return self._add(choice, user_attrs={SETTINGS: settings, INSTEAD_OF: choice.number})

    def _retry(self, choice: Choice, chosen: Collection[str]) -> None:
        trials = rules.reset_for_retry(self.spec.search, choice, chosen)
        if not choice.ended:
            for trial in trials:
                self._write(trial)
            return
        same = [frozen for frozen in self._study.get_trials(deepcopy=False) if choice_number(frozen) == choice.number]
        last = same[-1]
        if last.state == OptunaState.WAITING:  # the driver died in the middle of this
            self._enqueued -= 1
            self._take_up(self._study.ask(self._knobs.always))
            return
        kept = {name: last.user_attrs[name] for name in (SETTINGS, INSTEAD_OF) if name in last.user_attrs}
        stored = {f"seed:{trial.seed}": asdict(trial) for trial in trials}
        self._add(choice, last, user_attrs={"root": choice.number, **kept, **stored})

    def _add(self, choice: Choice, last: FrozenTrial | None = None, *, user_attrs: dict[str, Any]) -> Choice:
        """Ask for an Optuna trial with a choice's searched knobs; what samplers and pruners know of `last` goes on."""
        searched = {path: value for path, value in choice.run_with.items() if path not in choice.settings}
        new = create_trial(
            state=OptunaState.WAITING,
            system_attrs={**(last.system_attrs if last else {}), **compat.fixed_params(self._knobs.params(searched))},
            user_attrs=user_attrs,
            intermediate_values=last.intermediate_values if last else None,
        )
        self._study.add_trial(new)
        return self._take_up(self._study.ask(self._knobs.always))

    def _position(self, number: int) -> int:
        """How many choices the search had asked for before this one."""
        before = list(self._choices)[: list(self._choices).index(number)]
        return sum(not self._choices[other].settings for other in before)

    def _unfinished(self) -> list[FrozenTrial]:
        """The Optuna trials of the choices that a driver left open."""
        return self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))

    def _take_up(self, trial: optuna.Trial, *, untried: bool = False) -> Choice:
        """Hold an unfinished choice; suggest the knobs that it lacks because its driver died before it wrote them.

        untried: it is new, and must not repeat the setting of another one while there are others.
        """
        for _ in range(2):  # a section's own knobs depend on its name
            known = trial.params  # from the range that the search had then, which may have been widened
            for name, values in self._knobs.distributions(known).items():
                if name not in known:
                    suggest(trial, name, values)
        if untried:
            self._set_params(trial, self._knobs.misrounded(trial.params))
            self._vary(trial)
        number, stored = (
            trial.user_attrs.get("root", trial.number),
            self._study.get_trials(deepcopy=False)[trial.number],
        )
        self._choices[number] = self._choice(number, stored.params, trial.user_attrs)
        self._open[number] = OpenChoice(trial, stored.intermediate_values if self.spec.search.prunes_by else ())
        self._conclude(number)  # its driver died between the last seed's end and this
        return self._choices[number]

    def _vary(self, trial: optuna.Trial) -> None:
        """Give a new trial the nearest setting that was not tried, if its own was."""
        knobs, tried = self._knobs.knobs(trial.params), {setting_key(choice.knobs) for choice in self.choices}
        if setting_key(knobs) not in tried:
            return
        others = [setting for setting in others_than(self.spec.search, knobs) if setting_key(setting) not in tried]
        if not others:
            return
        nearest = min(others, key=lambda setting: sum(knobs.get(path) != value for path, value in setting.items()))
        self._set_params(trial, self._knobs.params(nearest))

    def _set_params(self, trial: optuna.Trial, params: Mapping[str, Any]) -> None:
        """Give a new trial other parameters than its sampler did."""
        distributions = self._knobs.distributions({**trial.params, **params})
        for name, value in params.items():
            values = distributions[name]
            self._storage.set_trial_param(trial.number, name, values.to_internal_repr(value), values)

    def _store_confirming(self, number: int, trials: tuple[Trial, ...]) -> None:
        self.notes.write(f"{CONFIRM}:{number}", [asdict(trial) for trial in trials])
        self._confirming[number] = trials
        self._choices[number] = replace(self._choices[number], confirming=trials)

    def _write(self, trial: Trial) -> None:
        choice = self._choices[trial.choice]
        if trial.confirms:
            self._store_confirming(trial.choice, _with_trial(choice.confirming, trial))
            return
        self._open[trial.choice].write(trial)
        self._choices[trial.choice] = replace(choice, trials=_with_trial(choice.trials, trial))

    def _conclude(self, number: int) -> list[Trial]:
        """Write everything that follows from the states of a choice's trials; doing it again changes nothing."""
        if self.spec.search.prunes_by == "seed":
            self._judge_seeds(number)
        unrun = rules.unrun(self.spec.search, self._choices[number])
        for trial in unrun:
            self._write(trial)
        if self._choices[number].ended:
            self._open.pop(number).tell(self._choices[number], self.spec.search.metrics)
        return unrun

    def _judge_seeds(self, number: int) -> None:
        """Let a pruner by seed judge the complete seeds if the others have not started."""
        choice, open_choice = self._choices[number], self._open[number]
        open_choice.report_seeds(choice, self.spec.search.primary.metric)
        left = {trial.state for trial in choice.trials if not trial.ended}
        if left == {TrialState.CREATED} and choice.pruned is None and open_choice.should_prune():
            self._mark_pruned(number, f"pruned after {open_choice.num_reports} seeds, as worse than the best choice")

    def _mark_pruned(self, number: int, why: str) -> None:
        self._open[number].mark_pruned(why)
        self._choices[number] = replace(self._choices[number], pruned=why)


def _with_trial(trials: tuple[Trial, ...], new: Trial) -> tuple[Trial, ...]:
    """The trials with the new one in place of that with its seed."""
    return tuple(new if trial.seed == new.seed else trial for trial in trials)
