"""The queue of trials, which starts trials that would wait for another trial's pretraining last."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

from ssl_sweep.ledger.entries import Trial

LOOK_AHEAD = 100  # how many trials are asked for early, to find one that need not wait


class TrialQueue:
    """The open trials in order, except that those that would wait for a running pretraining are passed over."""

    def __init__(self, key: Callable[[Trial], str | None]) -> None:
        """key: returns the key of the pretraining that a trial shares with others, or None."""
        self._key = key
        self._keys: dict[str, str | None] = {}  # by trial id, since computing a key is slow
        self._trials: deque[Trial] = deque()
        self._retry_at: dict[str, float] = {}  # by ids of crashed trials, on the monotonic clock
        self._pretrained: set[str | None] = {None}  # keys of finished pretrainings

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def add(self, trials: Iterable[Trial]) -> None:
        """Append trials."""
        self._trials.extend(trials)

    def remove(self, trial: Trial) -> None:
        """Remove a trial that must not run."""
        self._trials.remove(trial)

    def add_later(self, trial: Trial, seconds: float) -> None:
        """Append a crashed trial that may start after so many seconds."""
        self._retry_at[trial.trial_id] = time.monotonic() + seconds
        self._trials.append(trial)

    def mark_pretrained(self, trial: Trial) -> None:
        """Note that a trial's pretraining is finished: no trial waits for it."""
        self._pretrained.add(self._pretraining(trial))

    def unfinished_pretrainings(self, running: Iterable[Trial]) -> set[str | None]:
        """The keys of the pretrainings that these trials run or wait for."""
        return {self._pretraining(trial) for trial in running} - self._pretrained

    def needs_more(self, unfinished: Set[str | None], *, early: bool) -> bool:
        """Whether no trial can start or, if `early`, all would wait for one of the unfinished pretrainings."""
        if not (ready := self._ready()):
            return True
        return early and len(self) < LOOK_AHEAD and all(self._pretraining(trial) in unfinished for trial in ready)

    def take(self, unfinished: Set[str | None]) -> Trial | None:
        """Remove and return the next trial; None if none can start now."""
        if not (ready := self._ready()):
            return None
        trial = next((trial for trial in ready if self._pretraining(trial) not in unfinished), ready[0])
        self._trials.remove(trial)
        self._retry_at.pop(trial.trial_id, None)
        return trial

    def _ready(self) -> Sequence[Trial]:
        if not self._retry_at:
            return self._trials
        now = time.monotonic()
        return [trial for trial in self._trials if self._retry_at.get(trial.trial_id, now) <= now]

    def _pretraining(self, trial: Trial) -> str | None:
        if trial.trial_id not in self._keys:
            self._keys[trial.trial_id] = self._key(trial)
        return self._keys[trial.trial_id]
