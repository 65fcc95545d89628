"""The objective of a search, and the cost metrics, which depend on a trial's config alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

COST = "cost/"
COSTS_BY_EPOCHS = ("cost/pretrain_epochs", "cost/pretrain_gmacs")  # where pretraining has its length in epochs
COSTS_BY_STEPS = ("cost/pretrain_steps",)  # where it has it in steps
COSTS = ("cost/million_parameters", "cost/gmacs", *COSTS_BY_EPOCHS, *COSTS_BY_STEPS)
UNCHOSEN = "minimize cost/million_parameters"  # the objective without validation images: no test score decides
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Objective:
    """A metric, and the direction in which it improves; specs and ledgers store it as `maximize METRIC`."""

    direction: Direction
    metric: str

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Read `maximize METRIC` or `minimize METRIC`. Raises ValueError."""
        words = text.split()
        for direction in get_args(Direction):
            if len(words) == 2 and words[0] == direction:
                return cls(direction, words[1])
        raise ValueError(f"{text!r} must be `maximize METRIC` or `minimize METRIC`")

    @property
    def maximizes(self) -> bool:
        """Whether a higher value is better."""
        return self.direction == "maximize"

    @property
    def sign(self) -> int:
        """The factor that makes a higher value better: 1 or -1."""
        return 1 if self.maximizes else -1

    def __str__(self) -> str:
        return f"{self.direction} {self.metric}"


def parse_objectives(written: str | Iterable[str] | None) -> tuple[Objective, ...]:
    """Read the objectives of a stored spec or a status: a list of texts, or one text that joins several by `, `.

    Empty where none is written. Raises ValueError.
    """
    texts = written.split(",") if isinstance(written, str) else written or ()
    return tuple(Objective.parse(text) for text in texts if text.strip())
