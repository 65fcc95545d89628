"""Requests to stop or pause a sweep: commands write them into its ledger, and its driver reads them there."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ssl_sweep.ledger.entries import Notes
from ssl_sweep.trialdir.requests import StopRequest

NOTE = "ask"


@dataclass(frozen=True)
class Orders:
    """The request for the whole sweep, and those for single trials by id."""

    sweep: StopRequest | None
    trials: Mapping[str, StopRequest]

    def of(self, trial_id: str) -> StopRequest | None:
        """The request for a trial."""
        return self.trials.get(trial_id, self.sweep)


def read_orders(notes: Notes) -> Orders:
    """Read all requests that have not been cleared."""
    return orders_in(notes.read())


def orders_in(values: Mapping[str, Any]) -> Orders:
    """The requests among the values of notes."""
    asks = {name: StopRequest(**value) for name, value in values.items() if name.split(":")[0] == NOTE and value}
    return Orders(asks.pop(NOTE, None), {name.removeprefix(f"{NOTE}:"): ask for name, ask in asks.items()})


def give_order(notes: Notes, ask: StopRequest, trials: Collection[str] = ()) -> None:
    """Write a request for the trials with these ids, or for the whole sweep."""
    for name in [f"{NOTE}:{trial_id}" for trial_id in trials] or [NOTE]:
        notes.write(name, asdict(ask))


def clear_orders(notes: Notes, given: Mapping[str, Any]) -> None:
    """Clear the requests among `given`, the notes as they were read; a request that has come since stays."""
    for name, value in given.items():
        if name.split(":")[0] == NOTE and value is not None:
            notes.swap(name, value, None)
