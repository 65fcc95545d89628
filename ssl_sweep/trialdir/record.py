"""A trial's record, its identity and config: `config.yaml` in its folder, and JSON in Ray's messages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir.atomic import write_text

RECORD = "config.yaml"


class RecordError(UserError, ValueError):
    """A trial's `config.yaml` cannot be read."""


def setting_key(knobs: Mapping[str, Any]) -> str:
    """The same text for the same values of searched knobs; of floats, what rounding leaves alike."""
    digits = {path: f"{value:.12g}" if isinstance(value, float) else [value] for path, value in knobs.items()}
    return json.dumps(digits, sort_keys=True)


@dataclass(frozen=True)
class TrialRecord:
    """A trial's identity, its searched knobs, and its config with every knob resolved.

    Unknown fields have their defaults: all but `trial_id` if a trial died before it wrote its record.
    """

    trial_id: str
    sweep: str = ""
    choice: int | None = None
    seed: int | None = None
    confirms: bool = False  # it runs one of the best choices with a seed that the search did not use
    knobs: Mapping[str, Any] = field(default_factory=dict)
    settings: Sequence[str] = ()  # the paths of those knobs that are not searched: a resume has set them
    config: Mapping[str, Any] = field(default_factory=dict)

    def is_of(self, other: "TrialRecord") -> bool:
        """Whether both are records of one trial: of the same choice, searched knobs and seed."""
        return (self.choice, self.seed) == (other.choice, other.seed) and setting_key(self.knobs) == setting_key(
            other.knobs
        )

    def to_json(self) -> str:
        """The record for Ray's messages."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TrialRecord":
        """The record that `to_json` wrote."""
        return cls(**json.loads(text))

    def write(self, folder: Path) -> None:
        """Write `config.yaml` to the trial's folder."""
        write_text(folder / RECORD, yaml.safe_dump(asdict(self), sort_keys=False))

    @classmethod
    def read(cls, folder: Path) -> "TrialRecord":
        """Read `config.yaml` from a trial's folder.

        Raises:
            FileNotFoundError: the trial has not started.
            RecordError: the file is not YAML, or not a trial's record.
        """
        path = folder / RECORD
        text = path.read_text()
        try:
            stored = yaml.load(text, Loader=yaml.CSafeLoader)  # ten times as fast as the Python loader
        except yaml.YAMLError as error:
            raise RecordError(f"{path} is not YAML ({error})") from error
        if not isinstance(stored, dict):
            raise RecordError(f"{path} is not a trial's record")
        known = {field.name for field in fields(cls)} & stored.keys()  # a later version may write more
        return cls(**{"trial_id": folder.name, **{name: stored[name] for name in known}})
