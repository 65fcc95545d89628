"""Extends the spec of an existing sweep with more choices for the same study."""

from collections.abc import Sequence
from typing import Any

from ssl_sweep.knobs.problems import Problem, SpecError
from ssl_sweep.spec.changes import differences, is_free
from ssl_sweep.spec.file import changed
from ssl_sweep.spec.plan import count_choices
from ssl_sweep.spec.sweep import Range, SweepSpec


def extend_spec(spec: SweepSpec, choices: str, overrides: Sequence[str]) -> SweepSpec:
    """A sweep's spec with more choices and, if wanted, wider ranges.

    Args:
        spec: the sweep's.
        choices: `+20` adds 20; `40` makes 40 in all.
        overrides: `search.space.KNOB=...`, numeric ranges that contain the old ones.

    Raises:
        SpecError: the sweep is a grid, or the change is not an extension of its spec.
    """
    if spec.search.sampler == "grid":
        remedy = "run a new sweep over the further values, and show both: ssl-sweep table OLD NEW"
        raise _refused(spec, "search.sampler", "grid", "has all its choices already", remedy)
    more = changed(spec, [f"search.trials={_count(spec, choices)}", *overrides])
    if (more.search.trials or 0) < (spec.search.trials or 0):
        raise _refused(spec, "search.trials", choices, f"{spec.search.trials} choices exist already", "ask for more")
    if count_choices(more) <= count_choices(spec):
        remedy = "run a new sweep over further values, and show both: ssl-sweep table OLD NEW"
        raise _refused(spec, "search.trials", choices, f"there are only {count_choices(spec)} settings", remedy)
    for line in differences(spec, more):
        path = line.partition(":")[0]
        knob = path.removeprefix("search.space.").rpartition(".")[0]
        if path.startswith("search.space.") and spec.search.sampler == "cmaes":
            remedy = "run a new sweep, with `search.from` to start from the results of this one"
            raise _refused(spec, path, None, "cannot be widened: cmaes knows only the range it began with", remedy)
        if path.startswith("search.space.") and _is_wider(spec.search.space.get(knob), more.search.space.get(knob)):
            continue
        if path != "search.trials" and not is_free(line):
            remedy = "run a new sweep, with `search.from` to start from the results of this one"
            raise _refused(
                spec, path, None, f"cannot change in a sweep that exists ({line.partition(': ')[2]})", remedy
            )
    return more


def _count(spec: SweepSpec, choices: str) -> int:
    digits = choices.removeprefix("+")
    if not digits.isdecimal() or not int(digits):
        raise _refused(spec, "--choices", choices, "is no number of choices", "write --choices +20")
    return int(digits) + (spec.search.trials or 0 if choices.startswith("+") else 0)


def _is_wider(old: Any, new: Any) -> bool:
    """Whether a numeric range contains every value of the old one."""
    if not isinstance(old, Range) or not isinstance(new, Range):
        return False
    alike = (old.log, old.step, old.is_int) == (new.log, new.step, new.is_int)
    aligned = old.step is None or old.low in new.listed()
    return alike and aligned and new.low <= old.low and old.high <= new.high


def _refused(spec: SweepSpec, key: str, value: Any, message: str, remedy: str) -> SpecError:
    return SpecError([Problem(spec.name, None, key, value, message, remedy)])
