"""The choices that a search tries next: asked of Optuna's sampler, or taken from the grid in its order."""

import optuna

from ssl_sweep.ledger.sampling import Knobs, SearchState, sampler
from ssl_sweep.ledger.warm_start import FROM
from ssl_sweep.spec.sweep import SweepSpec, grid


class Proposals:
    """A search's proposals, each for one position: the number of choices before it."""

    def __init__(self, study: optuna.Study, spec: SweepSpec, knobs: Knobs, wanted: int) -> None:
        """wanted: how many choices the search tries."""
        self._study, self._search, self._knobs, self._wanted = study, spec.search, knobs, wanted
        self._grid = grid(spec) if spec.search.sampler == "grid" else None
        self._earlier = [frozen for frozen in study.get_trials(deepcopy=False) if FROM in frozen.user_attrs]

    def enqueue(self, position: int) -> None:
        """Put a grid's point where `ask` finds it; other searches leave the choice to their sampler."""
        if self._grid is not None:
            self._study.enqueue_trial(self._knobs.params(self._grid[position]))

    def ask(self, position: int) -> optuna.Trial:
        """Ask for the choice at a position; an enqueued one comes first."""
        self.set_sampler(position)
        return self._study.ask(self._knobs.always)

    def set_sampler(self, position: int) -> None:
        """Give the study the sampler for a position."""
        knobs = self._knobs
        state = SearchState(
            self._search.seed, position, self._wanted, knobs.always, self._earlier, conditional=knobs.conditional
        )
        self._study.sampler = sampler(self._search.sampler, state)
