"""Mistakes in a spec: findings by key while it is checked, then problems with file and line for the user.

A pydantic validator raises `validation_error(...)` with all its findings; pydantic adds the key that it was checking.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from ssl_sweep.errors import UserError

Loc = tuple[str | int, ...]
T = TypeVar("T")

_OURS = "finding"
_MAX_VALUE_CHARS = 80
_EXAMPLES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
}


class Finding(NamedTuple):
    """One mistake: the path of its key, the value, a message that says what is wrong, and the remedy."""

    loc: Loc
    value: Any
    message: str
    remedy: str

    def nested_in(self, *loc: str | int) -> "Finding":
        """The same finding, its key prefixed with the path of the section around it."""
        return self._replace(loc=(*loc, *self.loc))


@dataclass(frozen=True)
class Problem:
    """A finding with its place in a file. `line` counts from 1; None for a source without lines, as `--set`."""

    file: str
    line: int | None
    key: str
    value: Any
    message: str
    remedy: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        value = "" if self.value is None else _shortened(repr(self.value))
        text = f"{self.message}; {self.remedy}" if self.remedy else self.message
        return ": ".join(part for part in (place, self.key, value, text) if part)


class SpecError(UserError, ValueError):
    """An invalid spec. The message has one line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def did_you_mean(word: str, options: Iterable[str], otherwise: str | None = None) -> str:
    """`did you mean 'epochs'?`, or `otherwise` if no option is similar; without it, the list of all options."""
    options = sorted(options)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if otherwise is not None:
        return otherwise
    return f"use one of {', '.join(options)}" if options else "there are none, leave it out"


def validation_error(*findings: Finding) -> ValidationError:
    """An error with these findings, for a pydantic validator to raise."""
    return ValidationError.from_exception_data("spec", [_details(finding) for finding in findings])


def findings_of(error: ValidationError) -> list[Finding]:
    """The findings of an error made by `validation_error` or `translated`."""
    return [
        Finding(details["loc"], details["input"], details["ctx"]["message"], details["ctx"]["remedy"])
        for details in error.errors(include_url=False)
    ]


class ErrorCollector:
    """Runs checks and collects their findings, so that one mistake does not hide the next."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def run(self, loc: Loc, check: Callable[..., T], *args: Any) -> T | None:
        """Return the check's result, or None if it fails; keep the first finding of each key, prefixed with `loc`."""
        try:
            return check(*args)
        except ValidationError as error:
            known = {finding.loc for finding in self.findings}
            nested = [finding.nested_in(*loc) for finding in findings_of(error)]
            self.findings += [finding for finding in nested if finding.loc not in known]
            return None

    def add(self, loc: Loc, value: Any, message: str, remedy: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(loc, value, message, remedy))

    def raise_if_any(self) -> None:
        """Raise a ValidationError with all findings, if there are any."""
        if self.findings:
            raise validation_error(*self.findings)


def spec_error(error: ValidationError, place: Callable[[Loc], tuple[str, int | None]]) -> SpecError:
    """The error's findings as problems; `place` returns the file and line of a key."""
    return SpecError(
        [Problem(*place(finding.loc), key_text(finding.loc), *finding[1:]) for finding in findings_of(error)]
    )


def key_text(loc: Loc) -> str:
    """A key as text: `search.space.views.flip[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def translated(error: ValidationError, model: type[BaseModel], values: Any, owner: str) -> ValidationError:
    """pydantic's errors about `values` as findings in plain words; a union's errors about one key are merged.

    `owner` completes the message "is not ...": `a knob of simclr`.
    """
    merged: dict[Loc, Finding] = {}
    for details in error.errors(include_url=False):
        finding = _as_finding(details, model, values, owner)
        if finding.loc in merged and details["type"] == "tuple_type":
            continue  # a number or a list is allowed: a value that is not a list was meant as the number
        if finding.loc in merged and finding.message not in merged[finding.loc].message:
            finding = finding._replace(message=f"{merged[finding.loc].message} or {finding.message}")
        merged[finding.loc] = finding
    # a list with a wrong element is reported for the element, not for being a list where a number is allowed
    outer = {loc[:depth] for loc in merged for depth in range(1, len(loc))}
    return validation_error(*(finding for loc, finding in merged.items() if loc not in outer))


def _as_finding(details: ErrorDetails, model: type[BaseModel], values: Any, owner: str) -> Finding:
    loc, kind, value = details["loc"], details["type"], details["input"]
    if kind == _OURS:
        return Finding(loc, value, details["ctx"]["message"], details["ctx"]["remedy"])
    loc = loc if kind == "missing" else _existing(loc, values) or loc[:1]
    field = model.model_fields.get(str(loc[0])) if loc else None
    if kind == "missing":
        return Finding(loc, None, f"is required{_because(field)}", f"add `{loc[-1]}: ...`")
    if kind == "extra_forbidden":
        options = [info.alias or name for name, info in model.model_fields.items()]
        return Finding(loc, value, f"is not {owner}", did_you_mean(str(loc[-1]), options))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Finding(loc, value, "must be a mapping", "write `key: value` lines, indented under it")
    message = (
        re.sub(r"^\w+ should ", "must ", details["msg"]).replace(" after validation", "").replace("valid tuple", "list")
    )
    return Finding(loc, value, message + _because(field), _remedy(details, field, value))


def _existing(loc: Loc, values: Any) -> Loc:
    """The part of a pydantic location that exists in the values: pydantic also names the members of a union."""
    path: Loc = ()
    for part in loc:
        if isinstance(values, list) and isinstance(part, str):
            continue
        in_list = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if not in_list and not (isinstance(values, dict) and part in values):
            break
        values = values[part]
        path += (part,)
    return path


def _because(field: FieldInfo | None) -> str:
    return f" ({field.description})" if field is not None and field.description else ""


def _remedy(details: ErrorDetails, field: FieldInfo | None, value: Any) -> str:
    if details["type"] == "literal_error" and isinstance(value, str):
        options = [part.strip("'") for part in details["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return did_you_mean(value, options)
    interval = _interval(field.metadata) if field is not None else ""
    if details["type"] == "string_pattern_mismatch":
        return "rename it"
    example = _EXAMPLES.get(details["type"].split("_")[0], "")
    if interval and isinstance(value, int | float):
        return f"use {example or 'a value'} in {interval}"
    if field is None or field.is_required() or field.default is None or not example:
        return f"write {example}" if example else ""
    return f"write {example}, such as {_plain(field.default)}"


def _interval(metadata: Sequence[Any]) -> str:
    """A field's bounds as an interval: `[0, 0.5)`; empty if it has none."""
    bounds = {
        name: getattr(bound, name) for bound in metadata for name in ("ge", "gt", "le", "lt") if hasattr(bound, name)
    }
    if not bounds:
        return ""
    low = f"[{bounds['ge']}" if "ge" in bounds else f"({bounds.get('gt', '-∞')}"
    high = f"{bounds['le']}]" if "le" in bounds else f"{bounds.get('lt', '∞')})"
    return f"{low}, {high}"


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def _details(finding: Finding) -> InitErrorDetails:
    context = {"message": finding.message, "remedy": finding.remedy}
    return InitErrorDetails(type=PydanticCustomError(_OURS, "{message}", context), loc=finding.loc, input=finding.value)
