"""The columns of images and labels in an Arrow schema, and the class names in its metadata."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_sweep.data.images import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class", "category")


def class_features(schema: Any) -> dict[str, tuple[str, ...]]:
    """Class names by column, as the hub's `datasets` library writes them into the schema."""
    written = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(written).get("info", {}).get("features", {}) if written else {}
    return {
        column: tuple(feature["names"])
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def find_image_column(schema: Any, place: Path) -> str:
    binary = [field.name for field in schema if holds_bytes(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in binary]
    return choose("image column (binary, or a struct with binary 'bytes')", named, binary, schema, place)


def holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def find_label_column(schema: Any, place: Path) -> str | None:
    """The column with the labels; None if the images have none."""
    named = [name for name in LABEL_COLUMNS if name in schema.names]
    if not named and not class_features(schema):
        return None
    return choose(f"label column ({', '.join(LABEL_COLUMNS)})", named, list(class_features(schema)), schema, place)


def label_values(column: Any, name: str, place: Callable[[int], str]) -> list[int | str | None]:
    """The labels of a column: whole numbers, names, or None where there is none.

    Raises DataError for a column of another type, and for a number that is not whole.
    """
    import pyarrow.types as types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_null(kind) or is_number(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise DataError(f"{place(0)}: column {name!r} is of type {kind}; a label is a whole number or a class name")
    values = column.to_pylist()
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
