"""One sweep's Optuna study as the driver of the sweep works with it.

What is called here is one transaction. A process killed between any two writes, as of earlier versions, leaves a ledger
that `open_ledger` can go on from: a choice without its knobs gets them, a trial recorded RUNNING is taken up again.
"""

import math
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from ssl_sweep.ledger import compat, rules
from ssl_sweep.ledger.cached_storage import CachedStudyStorage
from ssl_sweep.ledger.entries import Choice, Notes, Trial
from ssl_sweep.ledger.open_choice import OpenChoice
from ssl_sweep.ledger.sampling import Knobs, Place, pruner, sampler, suggest
from ssl_sweep.ledger.warm_start import FROM
from ssl_sweep.spec.sweep import SweepSpec, grid
from ssl_sweep.trialdir.states import TrialState

CONFIRM = "confirm"  # heads the notes of trials with fresh seeds, a note a choice


class Ledger:
    """One sweep's study. Only the sweep's driver writes its choices, so that what it read once stays true.

    A pruner by epoch watches the first seed of a choice; the others run once that is complete. One by seed decides
    after each seed whether the next one runs. What it decides is written down before anybody acts on it.
    """

    def __init__(
        self, study: optuna.Study, spec: SweepSpec, notes: Notes, storage: CachedStudyStorage | None = None
    ) -> None:
        """storage: the study's storage; None where it is another process that is the sweep's driver, and writes."""
        self.spec = spec
        self.notes = notes
        self._study, self._reads_only = study, storage is None
        # makes one transaction of a block's changes, which nobody may act on before it has ended
        self.transaction: Callable[[], AbstractContextManager[None]] = storage.transaction if storage else nullcontext
        if (own := pruner(spec)) is not None:
            study.pruner = own
        self._namespace = uuid.UUID(study.user_attrs["uuid"])
        self._knobs = Knobs(spec)
        self._grid = grid(spec) if spec.search.sampler == "grid" else None
        self._choices: dict[int, Choice] = {}
        self._open: dict[int, OpenChoice] = {}  # choices that Optuna has not been told the end of, by number
        self._earlier: list[FrozenTrial] = []  # of other sweeps
        self._confirming = {  # the trials with fresh seeds, by their choice's number
            int(name.partition(":")[2]): tuple(Trial.read(noted) for noted in trials)
            for name, trials in study.user_attrs.items()
            if name.startswith(f"{CONFIRM}:")
        }
        known = study.get_trials(deepcopy=False)
        # enqueued and not asked for: the driver died in between. Counted once, as `ask` is called all the time
        self._waiting = sum(frozen.state == OptunaState.WAITING for frozen in known)
        with self.transaction():
            for frozen in known:
                self._read(frozen)

    @property
    def choices(self) -> list[Choice]:
        """Every choice that was asked for, oldest first."""
        return list(self._choices.values())

    @property
    def trials(self) -> list[Trial]:
        """Every trial of every choice."""
        return [trial for choice in self._choices.values() for trial in choice.all_trials]

    @property
    def total(self) -> int:
        """How many trials there will be; as long as the search goes on, at most."""
        if self.searched:
            return len(self.trials) + sum(len(trials) for trials in self._fresh().values())
        confirm = self.spec.search.confirm
        fresh = 0 if confirm is None else min(confirm.top, self._wanted) * len(confirm.seeds)
        return self._wanted * len(self.spec.search.seeds) + sum(map(len, self._confirming.values())) + fresh

    @property
    def searched(self) -> bool:
        """Whether the search is over: every choice that it wants has ended."""
        enough = not self._waiting and len(self._choices) >= self._wanted
        return enough and not self._open and all(choice.ended for choice in self._choices.values())

    def choice(self, number: int) -> Choice:
        """A choice by its number."""
        return self._choices[number]

    def ask(self) -> Choice | None:
        """The next choice, or None when the search has as many as it wants."""
        with self.transaction():
            if self._waiting:
                self._waiting -= 1
            elif not self._propose():
                return None
            self._set_sampler()
            return self._add(self._study.ask(self._knobs.always))

    def due(self, choice: Choice) -> list[Trial]:
        """The trials of a choice that may run: with a pruner, only what it is to judge next."""
        return rules.due(self.spec.search, choice)

    def confirm(self) -> list[Trial]:
        """Begin, once the search is over, what its best choices lack of trials with fresh seeds; returns these.

        A choice is written down with all of them before any runs: what is best may change as a sweep is extended, or
        a failed choice tried again.
        """
        begun = self._fresh() if self.searched else {}
        for number, trials in begun.items():
            self._note_confirming(number, (*self._choices[number].confirming, *trials))
        return [trial for trials in begun.values() for trial in trials]

    @property
    def pruned_running(self) -> list[Trial]:
        """Trials that were to be pruned as they ran, and have not ended yet."""
        if self.spec.search.prunes_by != "epoch":
            return []
        pruned = [choice for choice in self._choices.values() if choice.pruned is not None]
        return [choice.trials[0] for choice in pruned if not choice.trials[0].ended]

    def report(self, trial: Trial, metrics: Mapping[str, float], epoch: int) -> str | None:
        """Tell an epoch pruner of the metrics after an epoch; why the trial is to be pruned, if it is.

        An epoch that is reported again, or after a later one, is passed over: a pruner takes epochs as they rise.
        """
        search, number = self.spec.search, trial.choice
        choice = self._choices[number]
        if search.prunes_by != "epoch" or trial.seed != choice.trials[0].seed or choice.pruned is not None:
            return None
        value, asked = metrics.get(search.prune_objective.metric, math.nan), self._open[number]
        if not asked.accepts(value, epoch):
            return None
        with self.transaction():
            asked.report(search.prune_sign * value, epoch)
            if not asked.should_prune():
                return None
            return self._mark_pruned(
                number, f"pruned at epoch {epoch}, with {search.prune_objective.metric} {value:.4g}"
            )

    def update(self, trial: Trial) -> list[Trial]:
        """Write down a trial's new state; when that was the last of its choice, tell the sampler.

        Returns those of its choice that end with it without having run.
        """
        with self.transaction():
            self._write(trial)
            return [] if trial.confirms else self._conclude(trial.choice)

    def retry(self, choice: Choice, chosen: Collection[str]) -> None:
        """Take up again these trials of a choice, under their own ids and with their budgets anew.

        What Optuna was told of is final there: an ended choice goes on as a new Optuna trial with the same knobs, and
        with all that sampler and pruner know of the old one.
        """
        fresh = [trial for trial in choice.confirming if trial.trial_id in chosen]
        with self.transaction():
            for trial in fresh:
                self._write(trial.reset)
            if len(fresh) < len(chosen):
                self._retry(choice, chosen)

    def _retry(self, choice: Choice, chosen: Collection[str]) -> None:
        trials = rules.taken_up_again(self.spec.search, choice, chosen)
        if not choice.ended:
            for trial in trials:
                self._write(trial)
            return
        same = [each for each in self._study.get_trials(deepcopy=False) if _root(each) == choice.number]
        if same[-1].state == OptunaState.WAITING:  # the driver died in the middle of this
            self._waiting -= 1
        else:
            new = create_trial(
                state=OptunaState.WAITING,
                system_attrs={**same[-1].system_attrs, **compat.fixed_params(self._knobs.params(choice.knobs))},
                user_attrs={"root": choice.number, **{f"seed:{trial.seed}": asdict(trial) for trial in trials}},
                intermediate_values=same[-1].intermediate_values,
            )
            self._study.add_trial(new)
        self._add(self._study.ask(self._knobs.always))

    def _read(self, frozen: FrozenTrial) -> None:
        if frozen.state == OptunaState.WAITING:
            return
        if FROM in frozen.user_attrs:
            self._earlier.append(frozen)
            return
        if frozen.state.is_finished() or self._reads_only:
            root = _root(frozen)
            self._choices[root] = self._choice(root, frozen.params, frozen.user_attrs)
            self._open.pop(root, None)
        else:
            self._set_sampler()
            self._add(compat.running_trial(self._study, frozen))

    def _add(self, asked: optuna.Trial) -> Choice:
        """Hold an unfinished choice. One whose driver died before its knobs were written gets them here."""
        for _ in range(2):  # which knobs a section has of its own follows from its name
            known = asked.params  # from the range that the search had then, which may have been widened
            for name, values in self._knobs.distributions(known).items():
                if name not in known:
                    suggest(asked, name, values)
        root = asked.user_attrs.get("root", asked.number)
        self._choices[root] = self._choice(root, asked.params, asked.user_attrs)
        told = self._study.get_trials(deepcopy=False)[asked.number].intermediate_values
        self._open[root] = OpenChoice(asked, told if self.spec.search.prunes_by else ())
        self._conclude(root)  # the driver died between the last seed's end and this
        return self._choices[root]

    def _choice(self, root: int, params: Mapping[str, Any], noted: Mapping[str, Any]) -> Choice:
        trials = []
        for seed in self.spec.search.seeds:
            known = noted.get(f"seed:{seed}")
            trials.append(Trial.read(known) if known else Trial(self._trial_id(root, seed), root, seed))
        return Choice(
            root, self._knobs.knobs(params), tuple(trials), noted.get("pruned"), self._confirming.get(root, ())
        )

    def _trial_id(self, root: int, seed: int) -> str:
        return str(uuid.uuid5(self._namespace, f"{root}/{seed}"))

    def _fresh(self) -> dict[int, list[Trial]]:
        """What the best choices lack of trials with fresh seeds, by their number."""
        return {
            number: [Trial(self._trial_id(number, seed), number, seed, confirms=True) for seed in seeds]
            for number, seeds in rules.fresh_seeds(self.spec.search, self._choices).items()
        }

    def _note_confirming(self, number: int, trials: tuple[Trial, ...]) -> None:
        self.notes.write(f"{CONFIRM}:{number}", [asdict(trial) for trial in trials])
        self._confirming[number] = trials
        self._choices[number] = replace(self._choices[number], confirming=trials)

    def _set_sampler(self) -> None:
        search, knobs = self.spec.search, self._knobs
        place = Place(
            search.seed, len(self._choices), self._wanted, knobs.always, self._earlier, conditional=knobs.conditional
        )
        self._study.sampler = sampler(search.sampler, place)

    def _propose(self) -> bool:
        """Whether the search wants one more choice; a grid's next point is put where `ask` will find it."""
        if len(self._choices) >= self._wanted:
            return False
        if self._grid is not None:
            self._study.enqueue_trial(self._knobs.params(self._grid[len(self._choices)]))
        return True

    @property
    def _wanted(self) -> int:
        """How many choices the search tries."""
        return len(self._grid) if self._grid is not None else self.spec.search.trials or 0

    def _write(self, trial: Trial) -> None:
        if trial.confirms:
            known = self._confirming[trial.choice]
            self._note_confirming(trial.choice, tuple(trial if old.seed == trial.seed else old for old in known))
            return
        self._open[trial.choice].write(trial)
        choice = self._choices[trial.choice]
        trials = tuple(trial if old.seed == trial.seed else old for old in choice.trials)
        self._choices[trial.choice] = replace(choice, trials=trials)

    def _conclude(self, number: int) -> list[Trial]:
        """Whatever follows from the states of a choice's trials; nothing more when it is done again."""
        if self.spec.search.prunes_by == "seed":
            self._judge_seeds(number)
        unrun = rules.unrun(self.spec.search, self._choices[number])
        for trial in unrun:
            self._write(trial)
        self._tell_if_ended(number)
        return unrun

    def _judge_seeds(self, number: int) -> None:
        """Have a pruner by seed judge what is complete, where seeds are left that have not begun."""
        choice, asked = self._choices[number], self._open[number]
        asked.report_seeds(choice, self.spec.search.primary.metric)
        left = {trial.state for trial in choice.trials if not trial.ended}
        if left == {TrialState.CREATED} and choice.pruned is None and asked.should_prune():
            self._mark_pruned(number, f"pruned after {asked.num_reports} seeds, as worse than the best choice")

    def _mark_pruned(self, number: int, why: str) -> str:
        self._open[number].mark_pruned(why)
        self._choices[number] = replace(self._choices[number], pruned=why)
        return why

    def _tell_if_ended(self, number: int) -> None:
        if self._choices[number].ended:
            self._open.pop(number).tell(self._choices[number], self.spec.search.metrics)


def _root(frozen: FrozenTrial) -> int:
    """The number of the choice that an Optuna trial stands for: the first of those that tried it."""
    root: int = frozen.user_attrs.get("root", frozen.number)
    return root
