"""Knobs: the keyword-only arguments of methods, views, encoders, evaluations and recipes, as models."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from ssl_sweep.errors import UserError
from ssl_sweep.knobs.problems import did_you_mean, translated
from ssl_sweep.models.encoders import ENCODERS

Kind = Literal["methods", "evaluations", "encoders"]

_ATTRIBUTE = {"methods": "Method", "evaluations": "evaluate"}


class UnknownNameError(UserError, ValueError):
    """There is no method, evaluation or encoder of this name."""

    def __init__(self, kind: Kind, name: str) -> None:
        self.message = f"there is no {kind.removesuffix('s')} {name!r}"
        self.remedy = did_you_mean(name, names(kind))
        super().__init__(f"{self.message}; {self.remedy}")


def names(kind: Kind) -> list[str]:
    """All names of a kind, sorted: the files of its folder, or the encoders of the table."""
    if kind == "encoders":
        return sorted(ENCODERS)
    folder = importlib.import_module(f"ssl_sweep.{kind}").__path__
    return sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))


@cache
def load(kind: Kind, name: str) -> Callable[..., Any]:
    """The `Method` class, the `evaluate` function or the encoder's class of that name.

    Raises:
        UnknownNameError: there is none; the error proposes the most similar name.
    """
    if name not in names(kind):
        raise UnknownNameError(kind, name)
    if kind == "encoders":
        return ENCODERS[name]
    target: Callable[..., Any] = getattr(importlib.import_module(f"ssl_sweep.{kind}.{name}"), _ATTRIBUTE[kind])
    return target


class Knobs(BaseModel):
    """The base of every model that `knobs_of` makes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


@cache
def knobs_of(target: Callable[..., Any]) -> type[Knobs]:
    """A model of the keyword-only arguments of a class or function: types, bounds, descriptions and defaults."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return create_model(f"{target.__module__.rpartition('.')[2]}.{target.__name__}", __base__=Knobs, **fields)


def check(target: Callable[..., Any], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Every knob of `target` as plain JSON data: these values, validated, and the defaults of the others.

    The values are read as strict JSON: 1 is a float, but "1" and true are not numbers. `owner` is the target's name in
    errors.

    Raises:
        ValidationError: its findings (`problems.findings_of`) have the knob as their key.
    """
    model = knobs_of(target)
    try:
        return model.model_validate_json(json.dumps(values), strict=True).model_dump(mode="json")
    except ValidationError as error:
        raise translated(error, model, values, f"a knob of {owner}") from None
