"""More choices for a sweep that exists: in the same study, with what it has learned."""

from collections.abc import Sequence
from typing import Any

from ssl_sweep.knobs.problems import Problem, SpecError
from ssl_sweep.ledger.open import FREE
from ssl_sweep.spec.file import changed
from ssl_sweep.spec.sweep import Range, SweepSpec, differences


def extended(spec: SweepSpec, trials: str, overrides: Sequence[str]) -> SweepSpec:
    """The spec with more choices, and wider ranges to take them from.

    Args:
        spec: the sweep's.
        trials: `+20`: so many choices more; `40`: so many in all.
        overrides: `search.space.X=...`, numeric ranges that hold the old ones.

    Raises:
        SpecError: the sweep is a grid, or its new spec would not be the old one's extension.
    """
    if spec.search.sampler == "grid":
        remedy = "run a new sweep over the further values, and show both: ssl-sweep table OLD NEW"
        raise _refused(spec, "search.sampler", "grid", "has all its choices already", remedy)
    more = changed(spec, [f"search.trials={_count(spec, trials)}", *overrides])
    if (more.search.trials or 0) < (spec.search.trials or 0):
        raise _refused(spec, "search.trials", trials, f"there are {spec.search.trials} choices already", "ask for more")
    for line in differences(spec, more):
        path = line.partition(":")[0]
        knob = path.removeprefix("search.space.").rpartition(".")[0]
        if path.startswith("search.space.") and spec.search.sampler == "cmaes":
            remedy = "run a new sweep, with `search.from` to start from what this one found"
            raise _refused(spec, path, None, "cannot be widened: cmaes knows only the range it began with", remedy)
        if path.startswith("search.space.") and _is_wider(spec.search.space.get(knob), more.search.space.get(knob)):
            continue
        if path != "search.trials" and not path.startswith(FREE):
            remedy = "run a new sweep, with `search.from` to start from what this one found"
            raise _refused(
                spec, path, None, f"cannot change in a sweep that exists ({line.partition(': ')[2]})", remedy
            )
    return more


def _count(spec: SweepSpec, trials: str) -> int:
    digits = trials.removeprefix("+")
    if not digits.isdecimal() or not int(digits):
        raise _refused(spec, "--trials", trials, "is no number of choices", "write --trials +20")
    return int(digits) + (spec.search.trials or 0 if trials.startswith("+") else 0)


def _is_wider(old: Any, new: Any) -> bool:
    """Whether every value of a numeric range is one of the new range too."""
    if not isinstance(old, Range) or not isinstance(new, Range):
        return False
    alike = (old.log, old.step, old.is_int) == (new.log, new.step, new.is_int)
    aligned = old.step is None or old.low in new.listed()
    return alike and aligned and new.low <= old.low and old.high <= new.high


def _refused(spec: SweepSpec, key: str, value: Any, message: str, remedy: str) -> SpecError:
    return SpecError([Problem(spec.name, None, key, value, message, remedy)])
