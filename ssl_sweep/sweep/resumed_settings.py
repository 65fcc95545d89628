"""What a resume may set: keys that change no result, and knobs with which failed choices run again as new ones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssl_sweep.knobs.problems import Problem, SpecError
from ssl_sweep.ledger.entries import Choice, LedgerError
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.spec.changes import differences, is_free
from ssl_sweep.spec.choices import searched
from ssl_sweep.spec.file import changed
from ssl_sweep.spec.sections import NAMED
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trialdir.states import TrialState

SECTIONS = ("pretrain", "method", "encoder", "views", "evaluate")  # that have knobs of trials


@dataclass(frozen=True)
class Changes:
    """The spec with the keys that change no result, and the knobs of failed choices by path."""

    spec: SweepSpec
    settings: Mapping[str, Any] = field(default_factory=dict)


def changes_of(spec: SweepSpec, overrides: Sequence[str]) -> Changes:
    """What `KEY=VALUE` overrides change in a sweep that exists.

    Raises:
        SpecError: an override is invalid, or would change what finished trials mean.
    """
    wanted = changed(spec, overrides)
    lines = [line for line in differences(spec, wanted) if not is_free(line)]
    settings = dict(_setting(spec, wanted, line) for line in lines)
    free = [each for each in overrides if all(map(is_free, differences(spec, changed(spec, [each]))))]
    return Changes(changed(spec, free) if free else spec, settings)


def to_repeat(ledger: LedgerReader, only: Collection[str], settings: Mapping[str, Any]) -> list[Choice]:
    """The choices with a failed trial among these ids, and other settings than these.

    Raises:
        LedgerError: there is no such trial, or the search decides a setting.
        SpecError: a choice does not accept the settings.
    """
    if not settings:
        return []
    replaced = {choice.instead_of for choice in ledger.choices}
    failed = [
        choice
        for choice in ledger.choices
        if choice.number not in replaced
        and any(trial.state == TrialState.FAILED and trial.trial_id in only for trial in choice.trials)
    ]
    if not failed:
        raise LedgerError(
            f"{', '.join(settings)}: no trial that this resume runs has failed, and finished ones keep their settings; "
            f"run a new sweep and compare both: ssl-sweep run SPEC.YAML --set name={ledger.spec.name}-2"
        )
    repeated = [choice for choice in failed if {**choice.knobs, **settings} != choice.knobs]
    for choice in repeated:
        if decided := sorted(settings.keys() & (choice.knobs.keys() - choice.settings.keys())):
            raise LedgerError(f"{decided[0]}: the search decides it; leave it out, or run a new sweep")
        ledger.config({**choice.knobs, **settings}, ledger.spec.search.seeds[0])
    return repeated


def _setting(spec: SweepSpec, wanted: SweepSpec, line: str) -> tuple[str, Any]:
    """A knob's path and its new value, from a line of `differences`. Raises SpecError."""
    path, _, change = line.partition(": ")
    remedy = f"run a new sweep and compare both: ssl-sweep run SPEC.YAML --set name={spec.name}-2"
    keys = path.split(".")
    if path in searched(spec.search) or any(path in case for case in spec.search.cases.values()):
        raise _refused(spec, path, f"is searched, and cannot change in a sweep that exists ({change})", remedy)
    if keys[0] not in SECTIONS or (keys[-1] == "name" and keys[0] in NAMED):
        raise _refused(spec, path, f"cannot change in a sweep that exists ({change})", remedy)
    value: Any = wanted.model_dump(mode="json")
    for key in keys:
        value = value[key]
    return path, value


def _refused(spec: SweepSpec, path: str, message: str, remedy: str) -> SpecError:
    return SpecError([Problem(spec.name, None, path, None, message, remedy)])
