"""Reads YAML into plain data by the YAML 1.2 core schema, with the place of every key.

PyYAML's own schema is YAML 1.1, where `1e-4` is a text and `no` a boolean; and it accepts duplicate keys silently.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ssl_sweep.knobs.problems import Loc, Problem, SpecError, did_you_mean, key_text

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # after aliases are expanded: a few lines of YAML can stand for a billion values
MAX_DEPTH = 30


class Place(NamedTuple):
    """The file and line of a key; `line` is None for the command line."""

    file: str
    line: int | None


@dataclass
class Document:
    """A file's data, the place of each key, and the file's problems as YAML."""

    data: Any = None
    places: dict[Loc, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, loc: Loc) -> Place:
        """The place of a key, or of the nearest one around it."""
        return next(self.places[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self.places)


def file_text(path: Path) -> str:
    """Read a spec file as text.

    Raises:
        SpecError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        others = [str(other) for other in path.parent.glob("*.y*ml")]
        remedy = did_you_mean(str(path), others, "check the path")
        raise _file_error(path, "there is no such file", remedy) from None
    except OSError as error:
        raise _file_error(path, f"cannot be read: {error.strerror}", "name a YAML file that you may read") from None
    if len(content) > MAX_BYTES:
        raise _file_error(
            path, f"has {len(content):,} bytes", f"a spec has at most {MAX_BYTES:,}; is it the right file?"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _file_error(path, "is not UTF-8", "save the file as UTF-8", line) from None


def _file_error(path: Path, message: str, remedy: str, line: int | None = None) -> SpecError:
    return SpecError([Problem(str(path), line, "", None, message, remedy)])


class _TooLargeError(Exception):
    pass


class _CoreLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node unless it is nested too deeply: a thousand open brackets take PyYAML seconds."""
        if self.depth > MAX_DEPTH:
            raise _TooLargeError
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_PATTERNS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", lambda _: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10)),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
}
_READ: dict[str, Callable[[str], Any]] = {"tag:yaml.org,2002:str": str}
for _name, (_pattern, _read) in _PATTERNS.items():
    _tag = f"tag:yaml.org,2002:{_name}"
    _CoreLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), None)
    _READ[_tag] = _read
_TAGS = {*_READ, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


def read_yaml(text: str, file: str, *, numbered: bool = True) -> Document:
    """Read a YAML text; mistakes go to the document's problems, each with its line if `numbered`."""
    reader = _Reader(file, numbered)
    try:
        node = yaml.compose(text, _CoreLoader)
        if node is not None:
            reader.document.data = reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        reader.refuse_syntax(error)
    except yaml.YAMLError as error:  # an error at a character that YAML forbids has no mark
        reader.refuse((), None, f"is no YAML: {str(error).splitlines()[0]}", "remove that character", 0)
    except (_TooLargeError, RecursionError):
        remedy = "write the values out; a spec needs no deep nesting and few aliases"
        reader.refuse((), None, "is nested too deeply or too large once its aliases are expanded", remedy, 0)
    return reader.document


class _Reader:
    def __init__(self, file: str, numbered: bool) -> None:
        self.file, self.numbered = file, numbered
        self.document = Document(places={(): self._place(0)})
        self.values = 0

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self.values += 1
        if self.values > MAX_VALUES or len(loc) > MAX_DEPTH:
            raise _TooLargeError
        if node.tag not in _TAGS:
            self.refuse(loc, str(node.tag), "is a tag, which a spec does not have", "remove it", node.start_mark.line)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def refuse(self, loc: Loc, value: Any, message: str, remedy: str, line: int) -> None:
        self.document.problems.append(Problem(*self._place(line), key_text(loc), value, message, remedy))

    def refuse_syntax(self, error: yaml.MarkedYAMLError) -> None:
        line = error.problem_mark.line if error.problem_mark is not None else 0
        message = f"is no YAML: {error.problem or error.context}"
        remedy = "check the indentation, the colons and the brackets of this line and the one before"
        if "\\t" in message:
            message, remedy = "has a tab where YAML takes only spaces", "indent with spaces"
        if "single document" in str(error):
            message, remedy = "has a second document", "keep one spec a file, without `---` between"
        self.refuse((), None, message, remedy, line)

    def _place(self, line: int) -> Place:
        return Place(self.file, line + 1 if self.numbered else None)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            if not isinstance(key_node, yaml.ScalarNode):
                self.refuse(loc, None, "has a list or a mapping as a key", "use a text", line)
                continue
            key = key_node.value  # not converted: `0.10` in `published` is compared by value later
            if key in data:
                remedy = "keep one of them"
                self.refuse((*loc, key), None, f"is there twice, first on line {lines[key] + 1}", remedy, line)
            self.document.places[*loc, key] = self._place(line)
            lines[key] = line
            data[key] = self.value(value_node, (*loc, key))
        return data

    def _item(self, node: yaml.Node, loc: Loc) -> Any:
        self.document.places[loc] = self._place(node.start_mark.line)
        return self.value(node, loc)

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        try:
            return _READ[node.tag](node.value)
        except ValueError:
            self.refuse(loc, node.value, "is no number that can be read", "write it shorter", node.start_mark.line)
            return None
