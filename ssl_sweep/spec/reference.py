"""Renders every key of a spec as Markdown, from the models and the knobs; `make docs` writes experiments/SPEC.md."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from ssl_sweep.data.subset import Subset
from ssl_sweep.knobs import knobs
from ssl_sweep.models.library import LIBRARIES, library_class
from ssl_sweep.spec.pruners import PRUNERS
from ssl_sweep.spec.schema import Schema, json_schema, knob_schema
from ssl_sweep.spec.sections import SUBSET

BEGIN, END = "<!-- spec:begin -->", "<!-- spec:end -->"

_TYPES = {"boolean": "true or false", "string": "text", "null": "null", "object": "mapping"}


def reference() -> str:
    """Markdown tables of every key with its type, default and description."""
    schema = json_schema()
    definitions = schema["$defs"]
    sections = [
        ("The file", schema),
        ("`data`", schema["properties"]["data"]),
        (f"`{SUBSET}`", knob_schema(Subset)),
        *((f"`{name}`", schema["properties"][name]) for name in ("views", "pretrain", "health")),
        *_owned("encoder", "encoders"),
        *((f"`encoder`: `{library}/NAME`", knob_schema(library_class(library))) for library in LIBRARIES),
        *_owned("method", "methods"),
        *_owned("evaluate", "evaluations"),
        ("`search`", definitions["Search"]),
        ("A range in `search.space`", definitions["Range"]),
        ("`search.confirm`", definitions["Confirm"]),
        *((f"`search.pruner`: {names}", definitions[section]) for section, names in _pruners().items()),
        *((f"`{name.lower()}`", definitions[name]) for name in ("Resources", "Tracking", "Table")),
    ]
    return "\n\n".join(f"## {title}\n\n{_table(section)}" for title, section in sections)


def rewritten(text: str) -> str:
    """Replace the reference between the two markers of a text.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} with an {END} after it; put both where the reference belongs")
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


def type_text(schema: Schema) -> str:
    """A schema in words: `number in [0, 0.5)`, `list of text`."""
    if "anyOf" in schema:
        texts = dict.fromkeys(type_text(option) for option in schema["anyOf"])
        return " or ".join(text for text in texts if text != "whole number" or "number" not in texts)
    if "const" in schema or "enum" in schema:
        values = [f"`{value}`" for value in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))
    if "examples" in schema:
        return " or ".join(f"`{example}`" for example in schema["examples"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _interval(schema)
    if kind == "array":
        items = [schema["items"]] if "items" in schema else schema.get("prefixItems", [])
        return "list of " + ", ".join(type_text(item) for item in items)
    return _TYPES.get(str(kind), "mapping")


def _interval(schema: Schema) -> str:
    lows = [f" ≥ {schema[key]}" for key in ("minimum",) if key in schema]
    lows += [f" > {schema[key]}" for key in ("exclusiveMinimum",) if key in schema]
    highs = [f" ≤ {schema[key]}" for key in ("maximum",) if key in schema]
    highs += [f" < {schema[key]}" for key in ("exclusiveMaximum",) if key in schema]
    return ",".join(lows + highs)


def _owned(section: str, kind: knobs.Kind) -> Iterable[tuple[str, Schema]]:
    """One table for all names of a kind that have the same knobs."""
    tables: dict[str, tuple[list[str], Schema]] = {}
    for name in knobs.own_names(kind):
        schema = knob_schema(knobs.load(kind, name))
        tables.setdefault(_table(schema), ([], schema))[0].append(name)
    return [(f"`{section}`: {', '.join(f'`{name}`' for name in names)}", schema) for names, schema in tables.values()]


def _pruners() -> dict[str, str]:
    """The names of the pruners that have the same settings, by their section."""
    names: dict[str, list[str]] = {}
    for name, section in PRUNERS.items():
        names.setdefault(section.__name__, []).append(f"`{name}`")
    return {section: ", ".join(listed) for section, listed in names.items()}


def _table(schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (f"`{key}`", type_text(value), "required" if key in required else _default(value), value.get("description", ""))
        for key, value in schema["properties"].items()
    ]
    if not rows:
        return "No knobs."
    cells = [("key", "type", "default", "what"), ("---",) * 4, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in cells)


def _default(schema: Schema) -> str:
    if "$ref" in schema or ("properties" in schema and "default" not in schema):
        return "below"
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def main(path: Path) -> None:
    """Rewrite the reference in a file."""
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
