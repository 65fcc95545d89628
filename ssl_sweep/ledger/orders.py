"""What people ask of a sweep from another terminal: written into its ledger by commands, read there by its driver."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from ssl_sweep.ledger.entries import Notes
from ssl_sweep.trialdir.requests import StopRequest

NOTE = "ask"


@dataclass(frozen=True)
class Orders:
    """What is asked of the whole sweep, and of single trials by their ids."""

    sweep: StopRequest | None
    trials: Mapping[str, StopRequest]

    def of(self, trial_id: str) -> StopRequest | None:
        """What is asked of a trial."""
        return self.trials.get(trial_id, self.sweep)


def read_orders(notes: Notes) -> Orders:
    """Everything that is asked and has not been taken back."""
    asks = {name: StopRequest(**value) for name, value in notes.read().items() if name.split(":")[0] == NOTE and value}
    return Orders(asks.pop(NOTE, None), {name.removeprefix(f"{NOTE}:"): ask for name, ask in asks.items()})


def give_order(notes: Notes, ask: StopRequest, trials: Collection[str] = ()) -> None:
    """Ask this of the trials with these ids, or of the whole sweep."""
    for name in [f"{NOTE}:{trial_id}" for trial_id in trials] or [NOTE]:
        notes.write(name, asdict(ask))


def clear_orders(notes: Notes) -> None:
    """Take back whatever was asked."""
    for name, value in notes.read().items():
        if name.split(":")[0] == NOTE and value is not None:
            notes.write(name, None)
