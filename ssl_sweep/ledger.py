"""The ledger: an Optuna study that decides which choices exist and remembers each choice's trials by seed.

Every change is one write of Optuna's, so that a process killed between two of them leaves a ledger that `open_ledger`
can go on from: a choice without its knobs gets them, a trial recorded RUNNING is taken up again.
"""

import math
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ssl_sweep.ledger_store import open_storage
from ssl_sweep.pareto import on_front
from ssl_sweep.sampling import Knobs, Place, pruner, sampler, suggest
from ssl_sweep.spec import SweepSpec, differences, from_dump, grid
from ssl_sweep.warm_start import CMAES_NEEDS, FROM, lessons

optuna.logging.set_verbosity(optuna.logging.WARNING)

ENDED = ("COMPLETE", "FAILED", "PRUNED", "STOPPED")
# what a sweep may change as it goes on
FREE = (
    "description", "resources", "retries", "lost_retries", "keep_encoders", "table", "tracking", "root",
    "search.confirm",
)  # fmt: skip
CONFIRM = "confirm"  # heads the notes of trials with fresh seeds, a note a choice


class LedgerError(ValueError):
    """The ledger does not fit what was asked of it."""


@dataclass(frozen=True)
class Trial:
    """One choice with one seed, as the ledger knows it."""

    trial_id: str
    choice: int
    seed: int
    state: str = "CREATED"
    attempts: int = 0
    failures: int = 0  # attempts that crashed
    lost: int = 0  # attempts that lost their process, or hung
    results: Mapping[str, float] | None = None
    reason: str | None = None
    message: str | None = None
    confirms: bool = False  # it has a fresh seed, and the search learns nothing from it

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Choice:
    """One setting of the searched knobs and its trials, in the order of the seeds."""

    number: int
    knobs: Mapping[str, Any]
    trials: tuple[Trial, ...]
    pruned: str | None = None  # why the pruner has had enough of it
    confirming: tuple[Trial, ...] = ()  # its trials with fresh seeds

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """Those of the search, and those that confirm what it found."""
        return (*self.trials, *self.confirming)

    def means(self, metrics: Sequence[str]) -> tuple[float, ...] | None:
        """The metrics' means over the search's seeds; None where one of them has no finite value."""
        found = [mean for metric in metrics if (mean := _mean(self.trials, metric)) is not None]
        return tuple(found) if len(found) == len(metrics) else None

    def confirmed(self, metric: str) -> float | None:
        """Its mean over the fresh seeds; None without any, or where one of them has no finite value."""
        return _mean(self.confirming, metric)

    @property
    def ended(self) -> bool:
        return all(trial.ended for trial in self.trials)

    @property
    def retriable(self) -> bool:
        """Whether it has ended and lacks a trial for another reason than a pruner's."""
        return self.ended and any(trial.state in ("FAILED", "STOPPED") for trial in self.trials)


class Notes:
    """Small values beside a sweep's choices, each written by itself: who drives it, what people ask of it."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def read(self) -> dict[str, Any]:
        """All of them, as they are now."""
        return self._study.user_attrs

    def write(self, name: str, value: Any) -> None:
        """Set one; None where there is nothing any more."""
        self._study.set_user_attr(name, value)


class Ledger:
    """One sweep's study. Only the sweep's driver writes its choices, so that what it read once stays true.

    A pruner by epoch watches the first seed of a choice; the others run once that is complete. One by seed decides
    after each seed whether the next one runs. What it decides is written down before anybody acts on it.
    """

    def __init__(self, study: optuna.Study, spec: SweepSpec, *, reads_only: bool = False) -> None:
        """reads_only: it is another process that is the sweep's driver, and writes."""
        self.spec = spec
        self.notes = Notes(study)
        self._study, self._reads_only = study, reads_only
        if (own := pruner(spec)) is not None:
            study.pruner = own
        self._namespace = uuid.UUID(study.user_attrs["uuid"])
        self._knobs = Knobs(spec)
        self._grid = grid(spec) if spec.search.sampler == "grid" else None
        self._choices: dict[int, Choice] = {}
        self._open: dict[int, optuna.Trial] = {}  # choices that Optuna has not been told the end of, by number
        self._steps: dict[int, set[int]] = {}  # what of these the pruner has been told
        self._earlier: list[FrozenTrial] = []  # of other sweeps
        self._confirming = {  # the trials with fresh seeds, by their choice's number
            int(name.partition(":")[2]): tuple(Trial(**noted) for noted in trials)
            for name, trials in study.user_attrs.items()
            if name.startswith(f"{CONFIRM}:")
        }
        known = study.get_trials(deepcopy=False)
        # enqueued and not asked for: the driver died in between. Counted once, as `ask` is called all the time
        self._waiting = sum(frozen.state == TrialState.WAITING for frozen in known)
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
        if self._waiting:
            self._waiting -= 1
        elif not self._propose():
            return None
        self._set_sampler()
        return self._add(self._study.ask(self._knobs.always))

    def due(self, choice: Choice) -> list[Trial]:
        """The trials of a choice that may run: with a pruner, only what it is to judge next."""
        fresh = [trial for trial in choice.confirming if not trial.ended]
        left = [trial for trial in choice.trials if not trial.ended]
        by, first = self.spec.search.prunes_by, choice.trials[0]
        if by is None or (by == "epoch" and first.state == "COMPLETE"):
            return left + fresh
        return (left[:1] if choice.pruned is None else []) + fresh

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
    def condemned(self) -> list[Trial]:
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
        value = metrics.get(search.prune_metric, math.nan)
        if not math.isfinite(value) or epoch <= max(self._steps[number], default=0):
            return None
        self._tell_pruner(number, search.prune_sign * value, epoch)
        if not self._is_bad(number):
            return None
        return self._condemn(number, f"pruned at epoch {epoch}, with {search.prune_metric} {value:.4g}")

    def update(self, trial: Trial) -> list[Trial]:
        """Write down a trial's new state; when that was the last of its choice, tell the sampler.

        Returns those of its choice that end with it without having run.
        """
        self._write(trial)
        return [] if trial.confirms else self._conclude(trial.choice)

    def retry(self, choice: Choice, chosen: Collection[str]) -> None:
        """Take up again these trials of a choice, under their own ids and with their budgets anew.

        What Optuna was told of is final there: an ended choice goes on as a new Optuna trial with the same knobs, and
        with all that sampler and pruner know of the old one.
        """
        fresh = [trial for trial in choice.confirming if trial.trial_id in chosen]
        for trial in fresh:
            self._write(self._anew(trial))
        if len(fresh) == len(chosen):
            return
        trials = [self._anew(old) if old.trial_id in chosen or self._unbegun(old) else old for old in choice.trials]
        if not choice.ended:
            for trial in trials:
                self._write(trial)
            return
        same = [each for each in self._study.get_trials(deepcopy=False) if _root(each) == choice.number]
        if same[-1].state == TrialState.WAITING:  # the driver died in the middle of this
            self._waiting -= 1
        else:
            new = create_trial(
                state=TrialState.WAITING,
                system_attrs={**same[-1].system_attrs, "fixed_params": self._knobs.params(choice.knobs)},
                user_attrs={"root": choice.number, **{f"seed:{trial.seed}": asdict(trial) for trial in trials}},
                intermediate_values=same[-1].intermediate_values,
            )
            self._study.add_trial(new)
        self._add(self._study.ask(self._knobs.always))

    def _anew(self, old: Trial) -> Trial:
        return Trial(old.trial_id, old.choice, old.seed, attempts=old.attempts, confirms=old.confirms)

    def _unbegun(self, trial: Trial) -> bool:
        """Whether it ended only because the first seed of its choice did, and so follows that one again."""
        return self.spec.search.prunes_by == "epoch" and trial.state == "STOPPED" and trial.attempts == 0

    def _read(self, frozen: FrozenTrial) -> None:
        if frozen.state == TrialState.WAITING:
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
            self._add(optuna.Trial(self._study, frozen._trial_id))

    def _add(self, asked: optuna.Trial) -> Choice:
        """Hold an unfinished choice. One whose driver died before its knobs were written gets them here."""
        for _ in range(2):  # which knobs a section has of its own follows from its name
            known = asked.params  # from the range that the search had then, which may have been widened
            for name, values in self._knobs.distributions(known).items():
                if name not in known:
                    suggest(asked, name, values)
        root = asked.user_attrs.get("root", asked.number)
        self._choices[root] = self._choice(root, asked.params, asked.user_attrs)
        self._open[root], self._steps[root] = asked, set()
        if self.spec.search.prunes_by is not None:
            self._steps[root] |= self._study.get_trials(deepcopy=False)[asked.number].intermediate_values.keys()
        self._conclude(root)  # the driver died between the last seed's end and this
        return self._choices[root]

    def _choice(self, root: int, params: Mapping[str, Any], noted: Mapping[str, Any]) -> Choice:
        trials = []
        for seed in self.spec.search.seeds:
            known = noted.get(f"seed:{seed}")
            trials.append(Trial(**known) if known else Trial(self._trial_id(root, seed), root, seed))
        return Choice(
            root, self._knobs.knobs(params), tuple(trials), noted.get("pruned"), self._confirming.get(root, ())
        )

    def _trial_id(self, root: int, seed: int) -> str:
        return str(uuid.uuid5(self._namespace, f"{root}/{seed}"))

    def _fresh(self) -> dict[int, list[Trial]]:
        """What the best choices lack of trials with fresh seeds, by their number."""
        search = self.spec.search
        if search.confirm is None:
            return {}
        lacking: dict[int, list[Trial]] = {}
        for number in self._best_first()[: search.confirm.top]:
            known = {trial.seed for trial in self._choices[number].confirming}
            seeds = [seed for seed in search.confirm.seeds if seed not in known]
            lacking[number] = [Trial(self._trial_id(number, seed), number, seed, confirms=True) for seed in seeds]
        return lacking

    def _best_first(self) -> list[int]:
        """The numbers of the complete choices by the first objective; of two objectives, first those on the front."""
        search = self.spec.search
        means = {number: choice.means(search.metrics) for number, choice in self._choices.items()}
        signs = search.signs
        scored = {
            number: tuple(sign * value for sign, value in zip(signs, values, strict=True))
            for number, values in means.items()
            if values is not None
        }
        front = on_front([(first, rest[0] if rest else 0.0) for first, *rest in scored.values()])
        ranked = zip(front, scored.items(), strict=True)
        order = sorted((not best, -values[0], number) for best, (number, values) in ranked)
        return [number for *_, number in order]

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
        self._open[trial.choice].set_user_attr(f"seed:{trial.seed}", asdict(trial))
        choice = self._choices[trial.choice]
        trials = tuple(trial if old.seed == trial.seed else old for old in choice.trials)
        self._choices[trial.choice] = replace(choice, trials=trials)

    def _conclude(self, number: int) -> list[Trial]:
        """Whatever follows from the states of a choice's trials; nothing more when it is done again."""
        if self.spec.search.prunes_by == "seed":
            self._judge_seeds(number)
        unrun = self._unrun(self._choices[number])
        for trial in unrun:
            self._write(trial)
        self._tell_if_ended(number)
        return unrun

    def _judge_seeds(self, number: int) -> None:
        """Have a pruner by seed judge what is complete, where seeds are left that have not begun."""
        choice, metric = self._choices[number], self.spec.search.objective_metric
        for step, trial in enumerate(choice.trials):
            if trial.results is not None and step not in self._steps[number] and math.isfinite(trial.results[metric]):
                self._tell_pruner(number, trial.results[metric], step)
        left = {trial.state for trial in choice.trials if not trial.ended}
        if left == {"CREATED"} and choice.pruned is None and self._is_bad(number):
            self._condemn(number, f"pruned after {len(self._steps[number])} seeds, as worse than the best choice")

    def _tell_pruner(self, number: int, value: float, step: int) -> None:
        self._open[number].report(value, step)
        self._steps[number].add(step)

    def _is_bad(self, number: int) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SciPy's, that seeds tie, and Optuna's, that there is nothing to compare
            return self._open[number].should_prune()

    def _condemn(self, number: int, why: str) -> str:
        self._open[number].set_user_attr("pruned", why)
        self._choices[number] = replace(self._choices[number], pruned=why)
        return why

    def _unrun(self, choice: Choice) -> list[Trial]:
        """The trials that are not to run any more, with their ends."""
        by, first = self.spec.search.prunes_by, choice.trials[0]
        left = [trial for trial in choice.trials if not trial.ended]
        if by == "seed" and choice.pruned is not None:
            return [replace(trial, state="PRUNED", message=f"not run: {choice.pruned}") for trial in left]
        if by != "epoch" or not first.ended or first.state == "COMPLETE":
            return []
        state = "PRUNED" if first.state == "PRUNED" else "STOPPED"
        message = f"not run: seed {first.seed} {first.message if state == 'PRUNED' else f'is {first.state}'}"
        return [replace(trial, state=state, message=message) for trial in left]

    def _tell_if_ended(self, number: int) -> None:
        """Tell the mean over seeds; of a pruned choice nothing more; one that lacks a seed for another reason failed.

        Samplers leave out what failed, and know of what was pruned that its last value is one of early days.
        """
        choice = self._choices[number]
        if not choice.ended:
            return
        means = choice.means(self.spec.search.metrics)
        asked = self._open.pop(number)
        if means is not None:
            self._study.tell(asked, means)
        else:
            pruned = not choice.retriable and any(trial.state == "PRUNED" for trial in choice.trials)
            self._study.tell(asked, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def open_ledger(
    url: str, spec: SweepSpec, say: Callable[[str], object] = lambda _: None, *, extends: bool = False
) -> Ledger:
    """Open a sweep's ledger, making it when it is new. `extends`: the spec is known to be the stored one's extension.

    say: is told what a new sweep learns from earlier ones.

    Raises:
        LedgerError: there is a sweep of this name with another spec, and the message names what differs; or an earlier
            sweep to learn from is not there, or has too little to learn.
    """
    taught = _lessons(url, spec, say)
    study = _study_of(url, spec)
    if "uuid" not in study.user_attrs:
        study.set_user_attr("uuid", str(uuid.uuid4()))
    if not extends:
        _check_same(study, spec)
    if taught:
        known = {each.user_attrs.get(FROM) for each in study.get_trials(deepcopy=False)}
        study.add_trials([each for each in taught if each.user_attrs[FROM] not in known])
        study.set_user_attr("taught", True)  # by who was killed before this, the rest is added
    study.set_user_attr("spec", spec.model_dump(mode="json"))
    return Ledger(study, spec)


def _lessons(url: str, spec: SweepSpec, say: Callable[[str], object]) -> list[FrozenTrial]:
    """What a sweep has yet to learn from earlier ones, once for all its days: these may go on."""
    storage = open_storage(url)
    if not spec.search.earlier or _is_taught(storage, spec.name):
        return []
    try:
        earlier = {name: load_ledger(url, name).choices for name in spec.search.earlier}
    except LedgerError as error:
        raise LedgerError(f"search.from: {error}") from None
    taught, said = lessons(earlier, spec, Knobs(spec))
    if spec.search.sampler == "cmaes" and len(taught) < CMAES_NEEDS:
        raise LedgerError(f"{said}; sampler cmaes begins with their best tenth and needs {CMAES_NEEDS}: use tpe or gp")
    say(said)
    return taught


def _is_taught(storage: RDBStorage, name: str) -> bool:
    if name not in optuna.get_all_study_names(storage):
        return False
    return "taught" in optuna.load_study(storage=storage, study_name=name).user_attrs


def load_ledger(url: str, name: str) -> Ledger:
    """Open the ledger of a sweep that exists to read it, with the spec it was last run with.

    Raises:
        LedgerError: there is no such sweep; the message names those there are.
    """
    return _load(open_storage(url), name)


@contextmanager
def read_ledger(url: str, name: str) -> Iterator[Ledger]:
    """The same for who reads it again and again: its connections are closed at once, not when memory is tidied up."""
    storage = open_storage(url)
    try:
        yield _load(storage, name)
    finally:
        storage.engine.dispose()


def _load(storage: RDBStorage, name: str) -> Ledger:
    names = _begun(storage)
    if name not in names:
        raise LedgerError(f"no sweep named '{name}' here; there is {', '.join(names) or 'none'}")
    study = optuna.load_study(storage=storage, study_name=name)
    return Ledger(study, from_dump(study.user_attrs["spec"]), reads_only=True)


def open_notes(url: str, spec: SweepSpec) -> Notes:
    """The notes of a sweep that may be new, to be read before its ledger is opened."""
    return Notes(_study_of(url, spec))


def sweep_names(url: str) -> list[str]:
    """The sweeps of a ledger's database, in alphabetical order."""
    return _begun(open_storage(url))


def _begun(storage: RDBStorage) -> list[str]:
    """The studies that have their spec: not one whose driver was refused, or died, before it had begun."""
    return sorted(each.study_name for each in optuna.get_all_study_summaries(storage) if "spec" in each.user_attrs)


def _study_of(url: str, spec: SweepSpec) -> optuna.Study:
    storage, directions = open_storage(url), spec.search.directions
    if spec.name in optuna.get_all_study_names(storage):
        study = optuna.load_study(storage=storage, study_name=spec.name)
        if "spec" in study.user_attrs or tuple(each.name.lower() for each in study.directions) == directions:
            return study
        optuna.delete_study(storage=storage, study_name=spec.name)  # of a driver that was refused before it began
    return optuna.create_study(storage=storage, study_name=spec.name, directions=directions, load_if_exists=True)


def _mean(trials: Sequence[Trial], metric: str) -> float | None:
    values = [(trial.results or {}).get(metric, math.nan) for trial in trials]
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else None


def _root(frozen: FrozenTrial) -> int:
    """The number of the choice that an Optuna trial stands for: the first of those that tried it."""
    root: int = frozen.user_attrs.get("root", frozen.number)
    return root


def _check_same(study: optuna.Study, spec: SweepSpec) -> None:
    stored = study.user_attrs.get("spec")
    if stored is None:
        return
    differing = [line for line in differences(from_dump(stored), spec) if not line.startswith(FREE)]
    if differing:
        listed = "\n  ".join(differing)
        raise LedgerError(
            f"a sweep named '{spec.name}' exists with another spec:\n  {listed}\n"
            "give the new one another name, or undo the change to go on with the old one; "
            f"for more choices of the same: ssl-sweep extend {spec.name} --trials +N"
        )
