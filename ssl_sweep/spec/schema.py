"""The JSON Schema (2020-12) of a spec file, made from the models and the knobs, for editors to complete and check."""

from collections.abc import Callable, Sequence
from typing import Any

from ssl_sweep.data.subset import Subset
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.listing import usable
from ssl_sweep.models.library import LIBRARIES, library_class
from ssl_sweep.spec.domains import Range
from ssl_sweep.spec.pruners import NONE, PRUNERS
from ssl_sweep.spec.search import CONFIRM_SEEDS, Confirm
from ssl_sweep.spec.sections import FIXED, NAMED, SEARCHED, SUBSET
from ssl_sweep.spec.sweep import SweepSpec

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> Schema:
    """The schema of a spec, with all methods, encoders and evaluations and their knobs; broken plugins are left out."""
    schema: Schema = {"$schema": DIALECT, **SweepSpec.model_json_schema()}
    schema["title"] = "ssl-sweep spec"
    sections, definitions = schema["properties"], schema["$defs"]
    del sections["root"]
    for name in ("Categorical", "Branch", "Branches"):
        del definitions[name]
    for section, target in FIXED.items():
        sections[section] = knob_schema(target) | _described(sections[section])
    subset = sections["data"]["properties"]["subset"]
    subset["anyOf"] = [knob_schema(Subset), {"type": "null"}]
    sections["data"]["properties"]["classes"]["anyOf"].insert(0, {"type": "string"})  # a file, read with the spec
    for section, kind in NAMED.items():
        sections[section] = _named(kind) | _described(sections[section])
    sections["evaluate"] = _evaluations() | _described(sections["evaluate"])
    _complete_search(definitions["Search"]["properties"])
    fresh = definitions[Confirm.__name__]["properties"]["seeds"]
    _number_or_list(fresh)
    fresh["default"] = CONFIRM_SEEDS
    for key in ("rows", "columns"):
        column = definitions["Table"]["properties"][key]
        column["anyOf"] = [{"type": "string"}, {"type": column.pop("type"), "items": column.pop("items")}]
    return schema


def knob_schema(target: Callable[..., Any]) -> Schema:
    """The schema of a mapping of the target's knobs."""
    return knobs.knobs_of(target).model_json_schema()


def searched_schemas() -> dict[str, Schema]:
    """The schema of one value of each knob that can be searched, by path; `anyOf` where methods differ."""
    by_path: dict[str, list[Schema]] = {}
    for section, target in _searched_targets():
        for name, value in knob_schema(target)["properties"].items():
            value = {key: text for key, text in value.items() if key not in ("default", "title")}
            schemas = by_path.setdefault(f"{section}.{name}", [])
            if value not in schemas:
                schemas.append(value)
    return {path: schemas[0] if len(schemas) == 1 else {"anyOf": schemas} for path, schemas in by_path.items()}


def _searched_targets() -> list[tuple[str, Callable[..., Any]]]:
    fixed = [(section, target) for section, target in FIXED.items() if section in SEARCHED] + [(SUBSET, Subset)]
    named = [(section, target) for section, kind in NAMED.items() for _, target in _targets(kind)]
    evaluations = [(f"evaluate.{name}", target) for name, target in usable("evaluations").items()]
    return [*fixed, *named, *evaluations]


def _targets(kind: knobs.Kind) -> list[tuple[Schema, Callable[..., Any]]]:
    """The schema of a name, or of a library's names, and what declares the knobs."""
    targets: list[tuple[Schema, Callable[..., Any]]]
    targets = [({"const": name}, target) for name, target in usable(kind).items()]
    if kind == "encoders":
        for library in LIBRARIES:
            named = {"type": "string", "pattern": f"^{library}/.", "examples": [f"{library}/NAME"]}
            targets.append((named, library_class(library)))
    return targets


def _described(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}


def _named(kind: knobs.Kind) -> Schema:
    """A name alone, if no knob is required, or a mapping with the name and its knobs."""
    mappings, alone = [], []
    for name, target in _targets(kind):
        schema = knob_schema(target)
        if not schema.get("required"):
            alone.append(name)
        properties = {"name": name, **schema["properties"]}
        mappings.append({**schema, "properties": properties, "required": ["name", *schema.get("required", [])]})
    return {"anyOf": [*_listed(alone), *mappings]}


def _listed(names: Sequence[Schema]) -> list[Schema]:
    """One enumeration in place of many constants, then the patterns."""
    constants = [name["const"] for name in names if "const" in name]
    return [{"enum": constants}, *(name for name in names if "const" not in name)]


def _evaluations() -> Schema:
    schemas = {name: knob_schema(target) for name, target in usable("evaluations").items()}
    properties = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in schemas.items()}
    return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": properties}


def _complete_search(search: Schema) -> None:
    values = searched_schemas()
    spaces = {path: _space(value) for path, value in values.items()}
    spaces |= {section: _branches(kind) for section, kind in NAMED.items()}
    search["space"] |= {"additionalProperties": False, "properties": spaces}
    settings = {**values, **{section: _named(kind) for section, kind in NAMED.items()}}
    case = {"type": "object", "additionalProperties": False, "properties": settings}
    search["cases"] |= {"additionalProperties": {"anyOf": [case, {"type": "null"}]}}
    search["pruner"]["anyOf"] = [{"enum": [NONE, *PRUNERS]}, *search["pruner"]["anyOf"][1:]]
    _number_or_list(search["seeds"])


def _branches(kind: knobs.Kind) -> Schema:
    """A list of names, or of mappings with a name and its knobs, each fixed or searched."""
    choices = _listed([name for name, _ in _targets(kind)])
    for name, target in _targets(kind):
        own = knob_schema(target)["properties"]
        properties = {knob: {"anyOf": [value, _space(value)]} for knob, value in own.items()}
        named = {"name": name, **properties}
        choices.append({"type": "object", "additionalProperties": False, "properties": named, "required": ["name"]})
    listed = {"type": "array", "items": {"anyOf": choices}, "minItems": 1}
    return {"type": "object", "additionalProperties": False, "properties": {"choices": listed}, "required": ["choices"]}


def _number_or_list(seeds: Schema) -> None:
    listed = {key: seeds.pop(key) for key in ("type", "items", "minItems")}
    seeds["anyOf"] = [{"type": "integer", "minimum": 1}, {**listed, "uniqueItems": True}]


def _space(value: Schema) -> Schema:
    choices = {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}
    types = {schema.get("type") for schema in (value, *value.get("anyOf", []))}
    ranges = [{"$ref": f"#/$defs/{Range.__name__}"}] if types & {"number", "integer"} else []
    return {"anyOf": [choices, *ranges]}
