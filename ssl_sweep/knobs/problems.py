"""What is wrong with a spec: findings while it is checked, problems with their place for the user.

pydantic collects the findings: a validator raises `refusal(...)` with as many as it has, and pydantic puts them under
the key that it was checking.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

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
    """One thing that is wrong: the path of its key, the value there, what is wrong and what to do."""

    loc: Loc
    value: Any
    message: str
    remedy: str

    def under(self, *loc: str | int) -> "Finding":
        """The same finding, seen from further out."""
        return self._replace(loc=(*loc, *self.loc))


@dataclass(frozen=True)
class Problem:
    """A finding with its place. `line` counts from 1 and is None where there is no file, as for `--set`."""

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


class SpecError(ValueError):
    """A spec that cannot be used. Its text is one line a problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def nearest(word: str, options: Iterable[str], otherwise: str | None = None) -> str:
    """`did you mean 'epochs'?`; where none is near, `otherwise` or the list of all options."""
    options = sorted(options)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if otherwise is not None:
        return otherwise
    return f"use one of {', '.join(options)}" if options else "there are none, leave it out"


def refusal(findings: Iterable[Finding]) -> ValidationError:
    """An error for pydantic that carries these findings."""
    return ValidationError.from_exception_data("spec", [_details(finding) for finding in findings])


def findings_of(error: ValidationError) -> list[Finding]:
    """The findings of an error that `refusal` or `explained` made."""
    return [
        Finding(each["loc"], each["input"], each["ctx"]["message"], each["ctx"]["remedy"])
        for each in error.errors(include_url=False)
    ]


class Collector:
    """Runs checks and keeps what they find, so that one mistake does not hide the next."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def run(self, loc: Loc, check: Callable[..., T], *args: Any) -> T | None:
        """The check's result; or None, and its findings are kept under `loc`, one a key."""
        try:
            return check(*args)
        except ValidationError as error:
            known = {found.loc for found in self.findings}
            below = [found.under(*loc) for found in findings_of(error)]
            self.findings += [found for found in below if found.loc not in known]
            return None

    def add(self, loc: Loc, value: Any, message: str, remedy: str) -> None:
        """Keep one finding."""
        self.findings.append(Finding(loc, value, message, remedy))

    def done(self) -> None:
        """Raise everything that was found, if anything was."""
        if self.findings:
            raise refusal(self.findings)


def spec_error(error: ValidationError, place: Callable[[Loc], tuple[str, int | None]]) -> SpecError:
    """The same findings as problems; `place` gives a key's file and line."""
    return SpecError([Problem(*place(found.loc), key_text(found.loc), *found[1:]) for found in findings_of(error)])


def key_text(loc: Loc) -> str:
    """`search.space.views.flip[2]`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def explained(error: ValidationError, model: type[BaseModel], values: Any, owner: str) -> ValidationError:
    """pydantic's own errors about `values` as findings; a union's errors about one key become one.

    `owner` ends the sentence "... is not ...": "a knob of simclr".
    """
    merged: dict[Loc, Finding] = {}
    for each in error.errors(include_url=False):
        found = _as_finding(each, model, values, owner)
        if found.loc in merged and each["type"] == "tuple_type":
            continue  # "a number or a list": who wrote no list meant the number
        if found.loc in merged and found.message not in merged[found.loc].message:
            found = found._replace(message=f"{merged[found.loc].message} or {found.message}")
        merged[found.loc] = found
    # of a list's elements and "must be a number" the elements are what is wrong
    outer = {loc[:depth] for loc in merged for depth in range(1, len(loc))}
    return refusal(found for loc, found in merged.items() if loc not in outer)


def _as_finding(each: ErrorDetails, model: type[BaseModel], values: Any, owner: str) -> Finding:
    loc, kind, value = each["loc"], each["type"], each["input"]
    if kind == _OURS:
        return Finding(loc, value, each["ctx"]["message"], each["ctx"]["remedy"])
    loc = loc if kind == "missing" else _existing(loc, values) or loc[:1]
    field = model.model_fields.get(str(loc[0])) if loc else None
    if kind == "missing":
        return Finding(loc, None, f"is required{_because(field)}", f"add `{loc[-1]}: ...`")
    if kind == "extra_forbidden":
        options = [info.alias or name for name, info in model.model_fields.items()]
        return Finding(loc, value, f"is not {owner}", nearest(str(loc[-1]), options))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return Finding(loc, value, "must be a mapping", "write `key: value` lines, indented under it")
    message = (
        re.sub(r"^\w+ should ", "must ", each["msg"]).replace(" after validation", "").replace("valid tuple", "list")
    )
    return Finding(loc, value, message + _because(field), _remedy(each, field, value))


def _existing(loc: Loc, values: Any) -> Loc:
    # pydantic's loc also names the members of unions, which are no keys of the file
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


def _remedy(each: ErrorDetails, field: FieldInfo | None, value: Any) -> str:
    if each["type"] == "literal_error" and isinstance(value, str):
        options = [part.strip("'") for part in each["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return nearest(value, options)
    interval = _interval(field.metadata) if field is not None else ""
    if each["type"] == "string_pattern_mismatch":
        return "rename it"
    example = _EXAMPLES.get(each["type"].split("_")[0], "")
    if interval and isinstance(value, int | float):
        return f"use {example or 'a value'} in {interval}"
    if field is None or field.is_required() or field.default is None or not example:
        return f"write {example}" if example else ""
    return f"write {example}, such as {_plain(field.default)}"


def _interval(metadata: Sequence[Any]) -> str:
    """`[0, 0.5)` of a field's bounds; empty where it has none."""
    bounds = {
        name: getattr(each, name) for each in metadata for name in ("ge", "gt", "le", "lt") if hasattr(each, name)
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
