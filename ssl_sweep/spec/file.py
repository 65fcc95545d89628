"""Reads a spec file with `--set` overrides, and reports every problem at its line."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from ssl_sweep.knobs.problems import Loc, Problem, SpecError, findings_of, key_text, spec_error, validation_error
from ssl_sweep.spec.class_list import read_classes
from ssl_sweep.spec.document import MAX_DEPTH, Document, Place, file_text, read_yaml
from ssl_sweep.spec.launch import launch_findings
from ssl_sweep.spec.sections import NAMED
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.weights import weights_findings

__all__ = ["SpecError", "check_spec", "load_spec", "parse_spec"]

DATA_VARIABLE = "SSL_SWEEP_DATA"


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a YAML file with `a.b.c=value` overrides (the value is YAML; the last one of a key wins).

    A relative data source starts from the folder in `SSL_SWEEP_DATA` if that is set, else from the spec file's folder.
    One that an override sets starts from the current folder, where it was typed.

    Raises:
        SpecError: with every problem of the file and the overrides, each at its line.
    """
    path = Path(path)
    document = read_yaml(file_text(path), str(path))
    return _checked(document, str(path), overrides, lambda: _root(path, document))


def parse_spec(
    text: str, file: str, overrides: Sequence[str], root: Path, *, within: Sequence[Path] | None = None
) -> SweepSpec:
    """Read a text in place of a file: `file` is its name in messages, `root` the folder of its data.

    within: the folders of the files that may be read for it; None: any.

    Raises:
        SpecError: as `load_spec`.
    """
    return _checked(read_yaml(text, file), file, overrides, lambda: root, within)


def check_spec(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> SweepSpec:
    """Check a spec given as data: what a file would hold, with NumPy's numbers and arrays, tuples and paths as well.

    A relative data source starts from the folder in `SSL_SWEEP_DATA` if that is set, else from the current folder.

    Raises:
        SpecError: with every problem of the data and the overrides, each with its key.
    """
    document = Document(_plain(data), {(): Place("the spec", None)})
    return _checked(document, "the spec", overrides, lambda: _data_folder(Path.cwd()))


def _plain(value: Any) -> Any:
    """A value as YAML would give it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, PurePath):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value  # an array or number of NumPy, pandas or torch


def _checked(
    document: Document,
    file: str,
    overrides: Sequence[str],
    root: Callable[[], Path],
    within: Sequence[Path] | None = None,
) -> SweepSpec:
    problems = document.problems or _empty_problems(document, file)
    if isinstance(document.data, dict):
        for override in overrides:
            problems += _apply(document, override)
        problems += _take_root(document)
        problems += _read_classes(document, root(), within)
        try:
            spec = SweepSpec.model_validate({**document.data, "root": str(root())})
        except ValidationError as error:
            unread = {problem.key for problem in problems if problem.value is not None}
            problems += [problem for problem in spec_error(error, document.place).problems if problem.key not in unread]
        else:
            found = [] if problems else launch_findings(spec)
            if not problems and not found and within is None:  # a service looks first where the files lie
                found = weights_findings(spec)
            problems += [Problem(*document.place(each.loc), key_text(each.loc), *each[1:]) for each in found]
    if problems:
        raise SpecError(sorted(problems, key=lambda problem: (problem.file != file, problem.line or 0)))
    return spec


def changed(spec: SweepSpec, overrides: Sequence[str]) -> SweepSpec:
    """Apply `a.b.c=value` overrides to a sweep's spec.

    Raises:
        SpecError: with every problem of the overrides.
    """
    document = Document(spec.model_dump(mode="json"), {(): Place(spec.name, None)})
    problems = [problem for override in overrides for problem in _apply(document, override)]
    try:
        made = SweepSpec.model_validate(document.data)
    except ValidationError as error:
        problems += spec_error(error, document.place).problems
    if problems:
        raise SpecError(problems)
    return made


def _empty_problems(document: Document, file: str) -> list[Problem]:
    if document.data is None:
        return [Problem(file, 1, "", None, "is empty", "begin with a line `name: my-sweep`")]
    if not isinstance(document.data, dict):
        return [Problem(file, 1, "", None, "must be a mapping", "write `key: value` lines, `name: my-sweep` first")]
    return []


def _take_root(document: Document) -> list[Problem]:
    # `root` is a field of SweepSpec, for its dumps, but not a key of the file
    if document.data.pop("root", None) is None:
        return []
    remedy = f"set {DATA_VARIABLE} to the folder that data sources start from"
    return [Problem(*document.place(("root",)), "root", None, "is not a key of the spec", remedy)]


def _read_classes(document: Document, root: Path, within: Sequence[Path] | None) -> list[Problem]:
    """Put the names of a class list in the place of its file."""
    data = document.data.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("classes"), str):
        return []
    try:
        data["classes"] = read_classes(data["classes"], root, within)
    except ValidationError as error:
        del data["classes"]
        found = [finding.nested_in("data", "classes") for finding in findings_of(error)]
        return list(spec_error(validation_error(*found), document.place).problems)
    return []


def _root(path: Path, document: Document) -> Path:
    typed_here = document.place(("data", "source")).line is None
    return _data_folder(Path.cwd() if typed_here else path.resolve().parent)


def _data_folder(default: Path) -> Path:
    folder = os.environ.get(DATA_VARIABLE)
    return Path(os.path.expanduser(folder)).resolve() if folder else default


def _apply(document: Document, override: str) -> list[Problem]:
    """Set one key of the document; returns the problems of the override itself."""
    place = Place(f"--set {override}", None)
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return [Problem(*place, "", None, "is not `key=value`", "write, say, --set pretrain.epochs=2")]
    if len(parts) > MAX_DEPTH:
        return [Problem(*place, "", None, f"leads {len(parts)} levels down", f"a spec has at most {MAX_DEPTH}")]
    given = read_yaml(text, place.file, numbered=False)
    loc, section = _descend(document.data, parts)
    section[loc[-1]] = given.data
    stale = [place_loc for place_loc in document.places if place_loc[: len(loc)] == loc]
    for place_loc in stale:
        del document.places[place_loc]
    document.places |= {(*loc, *below): place for below in given.places}
    prefix = key_text(loc)
    return [replace(problem, key=prefix + (f".{problem.key}" if problem.key else "")) for problem in given.problems]


def _descend(data: dict[str, Any], parts: list[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Resolve a dotted key to its path and the mapping that holds its last part; missing sections are created.

    The keys of `search.space` and of a case contain dots themselves, and those of `published` may.
    """
    loc: tuple[str, ...] = ()
    section = data
    while True:
        rest = ".".join(parts)
        if len(parts) == 1 or rest in section or _has_dotted_keys(loc):
            return (*loc, rest), section
        head = parts.pop(0)
        below = section.get(head)
        if isinstance(below, str) and not loc and head in NAMED:
            below = {"name": below}  # `method: moco` and --set method.temperature=0.1
        section[head] = section = below if isinstance(below, dict) else {}
        loc += (head,)


def _has_dotted_keys(loc: Loc) -> bool:
    return loc == ("search", "space") or (loc[:2] == ("search", "cases") and len(loc) == 3)
