"""The trials that are to run: which of them may begin now, and which would only wait for another's pretraining."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

from ssl_sweep.ledger.entries import Trial

LOOK_AHEAD = 100  # trials that are asked for early, at most, to find one that need not wait


class TrialQueue:
    """The trials that are to run, in their order; who would wait for another's pretraining lets others pass."""

    def __init__(self, key: Callable[[Trial], str | None]) -> None:
        """key: gives the key of the pretraining that a trial shares with others; None where it has none."""
        self._key = key
        self._keys: dict[str, str | None] = {}  # by trial: to make one takes a while
        self._trials: deque[Trial] = deque()
        self._resting: dict[str, float] = {}  # crashed trials, by id, and when they may be tried again
        self._pretrained: set[str | None] = {None}  # keys of those that are known to be finished

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def add(self, trials: Iterable[Trial]) -> None:
        """They run after all that are there."""
        self._trials.extend(trials)

    def remove(self, trial: Trial) -> None:
        """It is not to run."""
        self._trials.remove(trial)

    def rest(self, trial: Trial, seconds: float) -> None:
        """Add a crashed trial, to be left alone for a while."""
        self._resting[trial.trial_id] = time.monotonic() + seconds
        self._trials.append(trial)

    def pretrained(self, trial: Trial) -> None:
        """Its pretraining is finished: nobody waits for that."""
        self._pretrained.add(self._pretraining(trial))

    def under_way(self, running: Iterable[Trial]) -> set[str | None]:
        """The pretrainings that these trials make or wait for."""
        return {self._pretraining(trial) for trial in running} - self._pretrained

    def wants_more(self, under_way: Set[str | None], *, early: bool) -> bool:
        """Whether none can begin; or, where more may be had `early`, all that can would wait for a pretraining."""
        if not (ready := self._ready()):
            return True
        return early and len(self) < LOOK_AHEAD and all(self._pretraining(trial) in under_way for trial in ready)

    def take(self, under_way: Set[str | None]) -> Trial | None:
        """The next trial, which is no longer to come; None where none can begin now."""
        if not (ready := self._ready()):
            return None
        trial = next((each for each in ready if self._pretraining(each) not in under_way), ready[0])
        self._trials.remove(trial)
        self._resting.pop(trial.trial_id, None)
        return trial

    def _ready(self) -> Sequence[Trial]:
        if not self._resting:
            return self._trials
        now = time.monotonic()
        return [trial for trial in self._trials if self._resting.get(trial.trial_id, now) <= now]

    def _pretraining(self, trial: Trial) -> str | None:
        if trial.trial_id not in self._keys:
            self._keys[trial.trial_id] = self._key(trial)
        return self._keys[trial.trial_id]
