"""A sweep's choices and trials as its ledger has them: what the driver shares with everybody who only reads."""

import uuid
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ssl_sweep.knobs.pins import used_by
from ssl_sweep.ledger import rules
from ssl_sweep.ledger.entries import PINS, Choice, DataNote, Notes, Trial
from ssl_sweep.ledger.sampling import Knobs
from ssl_sweep.ledger.warm_start import FROM
from ssl_sweep.spec.plan import count_choices, most_confirmed
from ssl_sweep.spec.sweep import SweepSpec, resolve
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.record import setting_key as setting_key  # also what other modules compare choices by

SETTINGS, INSTEAD_OF = "settings", "instead_of"  # user attributes of a choice: see `Choice`
LOST = "lost"  # the user attribute of what keeps a number free in a rebuilt study: it is no choice
CONFIRM = "confirm"  # starts the names of the notes that hold trials with fresh seeds, one note for each choice


class LedgerReader:
    """One sweep's choices, read from its study when it is opened."""

    def __init__(self, study: optuna.Study, spec: SweepSpec, notes: Notes) -> None:
        self.spec = spec
        self.notes = notes
        self.pins: Mapping[str, str] = study.user_attrs.get(PINS) or {}
        self.data = DataNote.read(study.user_attrs)
        self._study = study
        self._namespace = uuid.UUID(study.user_attrs["uuid"])
        self._knobs = Knobs(spec)
        self._confirming = {  # the trials with fresh seeds, by their choice's number
            int(name.partition(":")[2]): tuple(Trial.read(stored) for stored in trials)
            for name, trials in study.user_attrs.items()
            if name.startswith(f"{CONFIRM}:")
        }
        self._choices: dict[int, Choice] = {}
        self._enqueued = 0  # a driver that died between enqueueing a trial and asking for it leaves one
        for frozen in study.get_trials(deepcopy=False):
            if frozen.state == OptunaState.WAITING:
                self._enqueued += 1
            elif not {FROM, LOST} & frozen.user_attrs.keys():
                number = choice_number(frozen)
                self._choices[number] = self._choice(number, frozen.params, frozen.user_attrs)
        self._wanted = self._num_wanted()

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
        """The number of trials that the sweep will have; an upper bound while the search goes on."""
        if self.searched:
            return len(self.trials) + sum(len(trials) for trials in self._unconfirmed().values())
        confirm = self.spec.search.confirm
        fresh = 0 if confirm is None else most_confirmed(self.spec, self._wanted) * len(confirm.seeds)
        choices = self._wanted + len(self._choices) - self.num_searched
        return choices * len(self.spec.search.seeds) + sum(map(len, self._confirming.values())) + fresh

    @property
    def searched(self) -> bool:
        """Whether the search is over: every choice that it wants has ended."""
        enough = not self._enqueued and self.num_searched >= self._wanted
        return enough and all(choice.ended for choice in self._choices.values())

    def choice(self, number: int) -> Choice:
        """A choice by its number."""
        return self._choices[number]

    def config(self, knobs: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The config of a trial with these knobs, its pins and the identities of its data. Raises as `resolve`.

        The knobs of a choice are its `run_with`.
        """
        config = dict(resolve(self.spec, knobs, seed))
        if pins := used_by(config, self.pins):
            config["pins"] = pins
        if self.data.identities:
            config |= {"identities": dict(self.data.identities), "unkeyed": list(self.data.unkeyed)}
        return config

    def record(self, trial: Trial) -> TrialRecord:
        """The record of a trial, as it runs with it."""
        choice = self._choices[trial.choice]
        return TrialRecord(
            trial_id=trial.trial_id,
            sweep=self.spec.name,
            choice=trial.choice,
            seed=trial.seed,
            confirms=trial.confirms,
            knobs=dict(choice.knobs),
            settings=list(choice.settings),
            config=self.config(choice.run_with, trial.seed),
        )

    def due(self, choice: Choice) -> list[Trial]:
        """The trials of a choice that may run: with a pruner, only what it judges next."""
        return rules.due(self.spec.search, choice)

    @property
    def num_searched(self) -> int:
        """How many choices the search has asked for, without those that a resume has added with other settings."""
        return sum(not choice.settings for choice in self._choices.values())

    def _num_wanted(self) -> int:
        """How many choices the search tries; earlier versions tried settings again, which take no other's place."""
        wanted, trials = count_choices(self.spec), self.spec.search.trials or 0
        if self.spec.search.sampler == "grid" or wanted == trials:
            return wanted
        different = {setting_key(choice.knobs) for choice in self._choices.values()}
        return min(trials, wanted + len(self._choices) - len(different))

    def _choice(self, number: int, params: Mapping[str, Any], attrs: Mapping[str, Any]) -> Choice:
        """A choice from its Optuna trial's parameters and user attributes."""
        trials, drawn, settings = [], self._knobs.knobs(params), attrs.get(SETTINGS, {})
        knobs = {**self._knobs.knobs({**params, **self._knobs.misrounded(params)}), **settings}
        for seed in self.spec.search.seeds:
            stored = attrs.get(f"seed:{seed}")
            trials.append(Trial.read(stored) if stored else Trial(self._trial_id(number, knobs, seed), number, seed))
        return Choice(
            number,
            knobs,
            tuple(trials),
            attrs.get("pruned"),
            self._confirming.get(number, ()),
            settings,
            attrs.get(INSTEAD_OF),
            misrounded={path: value for path, value in drawn.items() if value != knobs[path]},
        )

    def _trial_id(self, number: int, knobs: Mapping[str, Any], seed: int) -> str:
        """The id of a trial that is not stored yet.

        It contains the knobs: a ledger that is restored from an older copy gives the number to another setting.
        """
        return str(uuid.uuid5(self._namespace, f"{number}/{setting_key(knobs)}/{seed}"))

    def _unconfirmed(self) -> dict[int, list[Trial]]:
        """The trials with fresh seeds that the best choices do not have yet, by the choice's number."""
        return {
            number: [
                Trial(self._trial_id(number, self._choices[number].knobs, seed), number, seed, confirms=True)
                for seed in seeds
            ]
            for number, seeds in rules.fresh_seeds(self.spec, self._choices).items()
        }


def choice_number(frozen: FrozenTrial) -> int:
    """The number of an Optuna trial's choice: that of the first Optuna trial for it."""
    number: int = frozen.user_attrs.get("root", frozen.number)
    return number
