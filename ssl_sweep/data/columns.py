"""The columns of images and labels in an Arrow schema, and the class names in its metadata."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_sweep.data.images import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class", "category")


def class_features(schema: Any, place: Path) -> dict[str, tuple[str, ...]]:
    """Class names by column, as the hub's `datasets` library writes them into the schema."""
    remedy = "save it again by the library `datasets`"
    try:
        written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = (written.get("info") or {}).get("features") or {}
        found = {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: its class names, in the metadata, cannot be read ({error}); {remedy}") from error
    for column, names in found.items():
        wrong = next((name for name in names if not isinstance(name, str)), None) if isinstance(names, list) else names
        if wrong is not None or None in names:
            what = f"class names of column {column!r}, in the metadata,"
            raise DataError(f"{place}: the {what} have {wrong!r}, and must be a list of texts; {remedy}")
    return {column: tuple(names) for column, names in found.items()}


def find_columns(schemas: Mapping[Path, Any]) -> tuple[str, str | None]:
    """The columns of images and of labels, or None without labels, in the files of a split.

    Raises DataError where a file lacks one of them or has it in another type.
    """
    (first, schema), *others = schemas.items()
    for path, each in schemas.items():
        check_unique(each, path)
    image, label = found = find_image_column(schema, first), find_label_column(schema, first)
    for path, other in others:
        if (find_image_column(other, path), find_label_column(other, path)) != found:
            have = f"columns of {first} are {image!r} and {label!r}" if label else f"column of {first} is {image!r}"
            raise DataError(f"{path}: its columns are {', '.join(other.names)}, but the {have}; write the files alike")
        if label and label not in class_features(schema, first):
            check_alike(schema.field(label).type, other.field(label).type, f"{path}: column {label!r}", first)
    return image, label


def check_unique(schema: Any, place: Path) -> None:
    """Refuse a second column of a name that may be that of the images or labels, of which either could be meant."""
    names = list(schema.names)
    wanted = {*IMAGE_COLUMNS, *LABEL_COLUMNS, *class_features(schema, place)}
    wanted |= {field.name for field in schema if holds_bytes(field.type)}
    for name in names:
        if names.count(name) > 1 and (name in wanted or name.lower() in wanted):
            raise DataError(f"{place}: has {names.count(name)} columns {name!r}; rename all but the one to use")


def usual(names: Sequence[str], columns: Sequence[str], place: Path) -> list[str]:
    """The columns with one of the usual `names`, in their order: exactly, or else in any case."""
    if exact := [name for name in names if name in columns]:
        return exact
    found = [column for name in names for column in columns if column.lower() == name]
    if len({column.lower() for column in found[:2]}) < len(found[:2]):
        raise DataError(f"{place}: has columns {found[0]!r} and {found[1]!r}; rename the one not to use")
    return found


def check_alike(kind: Any, other: Any, column: str, first: Path) -> None:
    """Refuse numbers in one file and names in another. A column without any label has a type of its own."""
    if "null" not in (str(kind), str(other)) and holds_text(kind) != holds_text(other):
        raise DataError(f"{column} is of type {other}, and of type {kind} in {first}; write the files alike")


def find_image_column(schema: Any, place: Path) -> str:
    binary = [field.name for field in schema if holds_bytes(field.type)]
    named = usual(IMAGE_COLUMNS, binary, place)
    return choose("image column (binary, or a struct with binary 'bytes')", named, binary, schema, place)


def holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return any(field.name == "bytes" and (holds_bytes(field.type) or types.is_null(field.type)) for field in fields)
    kind = without_dictionary(kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def holds_text(kind: Any) -> bool:
    import pyarrow.types as types

    kind = without_dictionary(kind)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def without_dictionary(kind: Any) -> Any:
    """The type of the values of a column, also where each is written once and rows have its number."""
    import pyarrow.types as types

    return kind.value_type if types.is_dictionary(kind) else kind


def find_label_column(schema: Any, place: Path) -> str | None:
    """The column with the labels; None if the images have none."""
    featured = [name for name in class_features(schema, place) if name in schema.names]
    exact = [name for name in LABEL_COLUMNS if name in schema.names]
    named = exact if exact or featured else usual(LABEL_COLUMNS, schema.names, place)
    if not named and not featured:
        return None
    return choose(f"label column ({', '.join(LABEL_COLUMNS)})", named, featured, schema, place)


def label_values(column: Any, name: str, place: Callable[[int], str]) -> list[int | str | None]:
    """The labels of a column: whole numbers, texts as they are written, or None where there is none.

    Raises DataError for a column of another type, and for a number that is not whole.
    """
    import pyarrow.types as types

    kind = without_dictionary(column.type)
    if not (types.is_null(kind) or is_number(kind) or holds_text(kind)):
        raise DataError(f"{place(0)}: column {name!r} is of type {kind}; a label is a whole number or a class name")
    try:
        values = column.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(f"{place(0)}: column {name!r} has a label that is no text ({error}); write it anew") from error
    if holds_text(kind):
        return list(values)
    if types.is_boolean(kind):
        return [None if value is None else int(value) for value in values]
    if not types.is_floating(kind):
        return list(values)
    values = [None if value is None or value != value else value for value in values]  # pandas writes NaN for none
    for row, value in enumerate(values):
        if value is not None and not value.is_integer():
            raise DataError(f"{place(row)}: column {name!r} of type {kind} has {value}; a label is a whole number")
    return [None if value is None else int(value) for value in values]


def is_number(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def choose(what: str, named: list[str], typed: list[str], schema: Any, place: Path) -> str:
    """The column with a usual name; without one, the only column of its type."""
    if named:
        return named[0]
    if len(typed) == 1:
        return typed[0]
    count = f"{len(typed)} columns could be the" if typed else "no"
    raise DataError(f"{place}: {count} {what}; its columns are {', '.join(schema.names)}: rename the one to use")
