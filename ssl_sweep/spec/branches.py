"""Reads a searched section: `search.space.method: {choices: [...]}`, each method with its own knobs; `encoder` too."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ssl_sweep.knobs.problems import ErrorCollector, Finding, Loc, did_you_mean, validation_error
from ssl_sweep.spec.domains import Branch, Branches, Categorical, Range
from ssl_sweep.spec.sections import NAMED, Base, check_named, named_part
from ssl_sweep.spec.values import read_values


def read_branches(section: str, entry: Any, base: Base) -> Branches:
    """Read the section's choices and check their knobs. Raises ValidationError.

    A choice that the file's own section names starts from the values there, any other from its defaults.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("choices"), list) or not entry["choices"]:
        written = "write `{choices: [NAME, {name: NAME, knob: [0.1, 0.2]}]}`"
        raise validation_error(Finding((), entry, f"must have the choices of {section!r}", written))
    errors = ErrorCollector()
    for key in entry.keys() - {"choices"}:
        errors.add((key,), entry[key], "is not a key of a searched section", did_you_mean(key, ["choices"]))
    branches: list[Branch] = []
    for index, choice in enumerate(entry["choices"]):
        branch = errors.run(("choices", index), _branch, section, choice, base)
        if branch is not None and branch.name in (other.name for other in branches):
            remedy = "give its knobs lists of choices, or compare settings by name in `search.cases`"
            errors.add(("choices", index), branch.name, "is there twice", remedy)
        branches += [branch] if branch is not None else []
    errors.raise_if_any()
    return Branches(choices=tuple(branches))


def listed_entries(path: str, entry: Any) -> Iterator[tuple[Loc, Any]]:
    """Yield the place under `search.space` and the entry of each searched knob, also of the knobs of branches."""
    choices = entry.get("choices") if path in NAMED and isinstance(entry, dict) else None
    if not isinstance(choices, list):
        yield (path,), entry
        return
    for index, choice in enumerate(choices):
        for knob, values in choice.items() if isinstance(choice, dict) else ():
            yield (path, "choices", index, knob), values


def _branch(section: str, choice: Any, base: Base) -> Branch:
    written = {"name": choice} if isinstance(choice, str) else choice
    if not isinstance(written, dict):
        check_named(NAMED[section], written)  # raises, and says what it must be
    searched = {knob: values for knob, values in written.items() if isinstance(values, list | dict)}
    fixed = {knob: value for knob, value in written.items() if knob not in searched}
    check = partial(check_named, NAMED[section], stored=base.stored)
    name = check({"name": fixed.get("name")})["name"]
    own = base.parts.get(section)
    start = dict(own.values) if own is not None and own.owner == name else {}
    errors = ErrorCollector()
    part = named_part(NAMED[section], {**start, **written}, stored=base.stored)
    for knob in written.keys() - {"name", *part.knobs}:
        errors.add((knob,), written[knob], f"is not a knob of {name}", did_you_mean(knob, part.knobs))
    errors.raise_if_any()
    settings = errors.run((), check, {**start, **fixed})
    errors.raise_if_any()
    assert settings is not None  # noqa: S101 - None only after an error
    part = named_part(NAMED[section], settings, stored=base.stored)
    read = {knob: errors.run((knob,), read_values, values, part, knob) for knob, values in searched.items()}
    errors.raise_if_any()
    space: dict[str, Categorical | Range] = {knob: values for knob, values in read.items() if values is not None}
    single = {knob: values.listed()[0] for knob, values in space.items() if len(values.listed()) == 1}
    several = {knob: values for knob, values in space.items() if knob not in single}
    settings = {knob: value for knob, value in {**settings, **single}.items() if knob not in ("name", *several)}
    return Branch(name=name, fixed=settings, space=several)
