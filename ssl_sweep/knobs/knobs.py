"""Knobs: the keyword-only arguments of methods, views, encoders, evaluations and recipes, as models."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model

from ssl_sweep.errors import UserError
from ssl_sweep.knobs.problems import did_you_mean, translated
from ssl_sweep.knobs.weights import ENCODER_KNOBS, RENAMED
from ssl_sweep.models.encoders import ENCODERS, Encoder, encoder_class
from ssl_sweep.models.library import LibraryError, is_library_name, library_names
from ssl_sweep.plugins import catalog

Kind = Literal["methods", "evaluations", "encoders"]

_ATTRIBUTE = {"methods": "Method", "evaluations": "evaluate"}


class UnknownNameError(UserError, ValueError):
    """There is no method, evaluation or encoder of this name."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.message, self.remedy = message, remedy


def names(kind: Kind) -> list[str]:
    """All names of a kind, sorted: the package's own, then those of plugins; not those of libraries."""
    own = own_names(kind)
    return [*own, *(name for name in catalog.names(kind) if name not in own)]


def own_names(kind: Kind) -> list[str]:
    """The names of the package's own, sorted: the files of the kind's folder, or the encoders of the table."""
    if kind == "encoders":
        return sorted(ENCODERS)
    folder = importlib.import_module(f"ssl_sweep.{kind}").__path__
    return sorted(module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_"))


def load(kind: Kind, name: str) -> Callable[..., Any]:
    """The `Method` class, the `evaluate` function or the encoder's class of that name.

    Raises:
        UnknownNameError: there is none; the error proposes the most similar name.
        PluginError: it is a plugin's and cannot be used.
    """
    if kind == "encoders":
        if not is_library_name(name):
            _check_known(kind, name)
        try:
            return encoder_class(name)
        except LibraryError as error:
            raise UnknownNameError(error.message, error.remedy) from None
    target: Callable[..., Any] = getattr(load_module(kind, name), _ATTRIBUTE[kind])
    return target


def load_module(kind: Literal["methods", "evaluations"], name: str) -> ModuleType:
    """The file of a method or an evaluation, as a module. Raises as `load`."""
    _check_known(kind, name)
    if is_own(kind, name):
        catalog.check_free(kind, name, (name,))
        return importlib.import_module(f"ssl_sweep.{kind}.{name}")
    catalog.check_free(kind, name, ())
    catalog.attribute(kind, name, _ATTRIBUTE[kind])
    return catalog.load(kind, name)


def _check_known(kind: Kind, name: str) -> None:
    if not is_own(kind, name) and not name.startswith(catalog.LOCAL) and name not in catalog.names(kind):
        same = [other for other in (f"{catalog.LOCAL}{name}",) if other in catalog.names(kind)]
        same += library_names(name) if kind == "encoders" else []
        remedy = f"did you mean {' or '.join(map(repr, same))}?" if same else did_you_mean(name, names(kind))
        raise UnknownNameError(f"there is no {kind.removesuffix('s')} {name!r}", remedy)


def is_own(kind: Kind, name: str) -> bool:
    """Whether the package has it itself. Quick for what has been imported: a large sweep asks thousands of times."""
    if kind == "encoders":
        return name in ENCODERS
    return name.isidentifier() and not name.startswith("_") and find_spec(f"ssl_sweep.{kind}.{name}") is not None


class Knobs(BaseModel):
    """The base of every model that `knobs_of` makes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


def arguments(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class or function by name, their annotations evaluated.

    Raises:
        PluginError: a plugin annotates with a name that its file does not import when it runs.
    """
    try:
        return inspect.signature(target, eval_str=True).parameters
    except NameError as error:
        what = f"{inspect.getsourcefile(target)}: an annotation of {target.__name__} cannot be read: {error}"
        raise catalog.PluginError(f"{what}; import it outside `if TYPE_CHECKING`") from error


@cache
def knobs_of(target: Callable[..., Any]) -> type[Knobs]:
    """A model of the keyword-only arguments of a class or function: types, bounds, descriptions and defaults.

    Encoders have the knobs of their weights besides.

    Raises:
        PluginError: a plugin's argument has no type that a spec can hold.
    """
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in arguments(target).items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    if isinstance(target, type) and issubclass(target, Encoder):
        for name in fields.keys() & ENCODER_KNOBS.keys():
            what = f"{inspect.getsourcefile(target)}: {target.__name__} has an argument {name}"
            raise catalog.PluginError(f"{what}, and every encoder has the knob encoder.{name}; rename the argument")
        fields |= ENCODER_KNOBS
    if target in RENAMED:
        argument, knob, field = RENAMED[target]
        fields = {**{name: each for name, each in fields.items() if name != argument}, knob: field}
    try:
        return create_model(f"{target.__module__.rpartition('.')[2]}.{target.__name__}", __base__=Knobs, **fields)
    except PydanticUserError as error:
        what = f"{inspect.getsourcefile(target)}: a keyword-only argument of {target.__name__} is no knob"
        raise catalog.PluginError(
            f"{what} ({error.message.splitlines()[0]}); make it a number, a text, a list or a choice"
        ) from error


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
