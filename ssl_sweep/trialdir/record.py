"""A trial's record, its identity and config: `config.yaml` in its folder, and JSON in Ray's messages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.damage import MEND, DamagedFileError, read_text

RECORD = "config.yaml"


class RecordError(DamagedFileError):
    """A trial's `config.yaml` cannot be read."""


def setting_key(knobs: Mapping[str, Any]) -> str:
    """The same text for the same values of searched knobs; of floats, what rounding leaves alike."""
    digits = {path: f"{value:.12g}" if isinstance(value, float) else [value] for path, value in knobs.items()}
    return json.dumps(digits, sort_keys=True)


def glance(folder: Path) -> str | None:
    """What is wrong with a trial's `config.yaml` by its start and end, which takes a hundredth of reading it."""
    path = folder / RECORD
    try:
        text = read_text(path)
    except FileNotFoundError:
        return f"{path} is gone; {MEND}"
    except DamagedFileError as error:
        return str(error)
    is_whole = "trial_id:" in text and text.endswith("\n") and "\0" not in text
    return None if is_whole else f"{path} is {'damaged' if text else 'empty'}; {MEND}"


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", tuple(self.settings))  # files and messages have it as a list

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
            RecordError: the file is not YAML, is cut off, or is not a trial's record.
            DamagedFileError: it is a folder, is not UTF-8, or may not be read.
        """
        path = folder / RECORD
        text = read_text(path)
        try:
            stored = yaml.load(text, Loader=yaml.CSafeLoader)  # ten times as fast as the Python loader
        except yaml.YAMLError as error:
            raise RecordError(f"{path} is not YAML ({' '.join(str(error).split())}); {MEND}") from error
        if not isinstance(stored, dict):
            raise RecordError(f"{path} is not a trial's record; {MEND}")
        if not text.endswith("\n"):  # half of it can be YAML too
            raise RecordError(f"{path} is cut off; {MEND}")
        known = {field.name for field in fields(cls)} & stored.keys()  # a later version may write more
        return cls(**{"trial_id": folder.name, **{name: stored[name] for name in known}})
