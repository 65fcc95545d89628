"""Knobs: the keyword-only arguments of methods, views, encoders, evaluations and recipes, as models."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
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
    """Every name of a kind, sorted: the files of its folder, or the encoders of the table."""
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


def metrics(evaluation: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Every metric that an evaluation returns, as a table or an objective names it: `knn/top1_val`.

    A file whose settings decide what it measures has a function `metrics(settings)` in place of `METRICS`.
    """
    load("evaluations", evaluation)
    module = importlib.import_module(f"ssl_sweep.evaluations.{evaluation}")
    found: tuple[str, ...] = module.metrics(settings) if hasattr(module, "metrics") else module.METRICS
    return tuple(f"{evaluation}/{metric}" for metric in found)


def data_sources(evaluation: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Data that an evaluation opens beside the sweep's own, as its file's `data_sources(settings)` says."""
    load("evaluations", evaluation)
    module = importlib.import_module(f"ssl_sweep.evaluations.{evaluation}")
    found: tuple[str, ...] = module.data_sources(settings) if hasattr(module, "data_sources") else ()
    return found


def planned_epochs(evaluation: str, settings: Mapping[str, Any]) -> int | None:
    """Epochs that an evaluation trains: its knob `epochs`, or what its file's `planned_epochs(settings)` says."""
    load("evaluations", evaluation)
    module = importlib.import_module(f"ssl_sweep.evaluations.{evaluation}")
    found: int | None = module.planned_epochs(settings) if hasattr(module, "planned_epochs") else settings.get("epochs")
    return found


def check_data(evaluation: str, settings: Mapping[str, Any], root: Path) -> None:
    """Refuse data of a kind that only this evaluation opens, as its file's `check_data(settings, root)` does.

    Raises:
        DataError: it is missing or damaged. Relative folders are below `root`.
    """
    load("evaluations", evaluation)
    module = importlib.import_module(f"ssl_sweep.evaluations.{evaluation}")
    if hasattr(module, "check_data"):
        module.check_data(settings, root)


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
