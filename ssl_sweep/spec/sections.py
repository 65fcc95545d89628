"""Checks the sections of a spec that have knobs, each by itself, and finds a searched knob's section."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from ssl_sweep.data.recipes import AUTO, RECIPES, Views, complete_views
from ssl_sweep.data.splits import Data
from ssl_sweep.data.subset import OWN_ENCODER, Subset, subset_of
from ssl_sweep.data.views import Augment
from ssl_sweep.knobs import knobs, methods
from ssl_sweep.knobs.earlier import with_earlier
from ssl_sweep.knobs.problems import ErrorCollector, Finding, did_you_mean, findings_of, validation_error
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.library import is_library_name
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.training.health import Health
from ssl_sweep.training.optimizers import Recipe

Settings = dict[str, Any]

FIXED: dict[str, Callable[..., Any]] = {"data": Data, "views": Views, "pretrain": Recipe, "health": Health}
NAMED: dict[str, knobs.Kind] = {"encoder": "encoders", "method": "methods"}  # sections with a `name`
SEARCHED = ("views", "method", "encoder", "pretrain", "evaluate")
SUBSET = "data.subset"  # a section inside another, with knobs that can be searched
CONSTRUCTED = ("views", "pretrain", "encoder", "data")  # sections whose objects are cheap to build, see `construct`
CASE = "case"  # the knob whose values are the names of `search.cases`

_REFUSED = {
    SUBSET: ("is a knob of a subset, which this spec lacks", "add `subset: {method: random, fraction: 1}` to data"),
    "data": ("cannot be searched: the trials of a sweep share one data set", "write one spec for each data set"),
    "health": ("cannot be searched: it watches, and changes nothing", "set it in the `health` section"),
    "seed": ("is not a knob of the space", "use `search.seeds`"),
    CASE: ("is not a knob of the space", "name the cases in `search.cases`"),
}


class Part(NamedTuple):
    """A section with knobs: the callable that declares them, the file's values, and the owner's name for errors.

    Without a callable it is a plugin's in a stored spec, see `is_trusted`: every knob and value is accepted.
    """

    target: Callable[..., Any] | None
    values: Mapping[str, Any]
    owner: str

    @property
    def knobs(self) -> list[str]:
        """The names of its knobs, as far as they are known."""
        return list(self.values if self.target is None else knobs.knobs_of(self.target).model_fields)

    def typed(self, knob: str, value: Any) -> Any:
        """Convert a value to the knob's type: 0 becomes 0.0 for a float. Raises ValidationError."""
        if self.target is None:
            return value
        try:
            return knobs.check(self.target, {**self.values, knob: value}, self.owner)[knob]
        except ValidationError as error:
            findings = [each._replace(loc=each.loc[1:]) for each in findings_of(error) if each.loc[0] == knob]
            if findings:
                raise validation_error(*findings) from None
            return value  # only the section's own values are wrong, and those are reported elsewhere


class Base(NamedTuple):
    """The sections that a search can vary, by path (`views`, `evaluate.knn`), and the names of those in error."""

    parts: Mapping[str, Part]
    broken: frozenset[str]
    stored: bool = False  # whether these are a stored spec's

    def replaced(self, sections: Mapping[str, dict[str, Any] | None]) -> "Base":
        """Return a copy with another encoder or method; None marks one in error."""
        given = {name: values for name, values in sections.items() if values is not None}
        parts = {name: named_part(NAMED[name], values, stored=self.stored) for name, values in given.items()}
        return Base({**self.parts, **parts}, (self.broken | sections.keys()) - parts.keys(), self.stored)

    def locate(self, path: str, value: Any) -> tuple[Part, str] | None:
        """Find a knob's part and name; None if its section is invalid. Raises ValidationError without such a knob."""
        section, _, knob = path.rpartition(".")
        head = path.partition(".")[0]
        if head in self.broken:
            return None
        part = self.parts.get(section)
        if part is not None and (part.target is None or knob in part.knobs):
            return part, knob
        if part is None and (refused := section if section in _REFUSED else head) in _REFUSED:
            raise validation_error(Finding((), value, *_REFUSED[refused]))
        if part is not None:
            options = [f"{section}.{name}" for name in part.knobs]
            raise validation_error(Finding((), value, f"is not a knob of {part.owner}", did_you_mean(path, options)))
        raise validation_error(Finding((), value, "is not a knob of this spec", self._nearest(path)))

    def _nearest(self, path: str) -> str:
        paths = [f"{name}.{knob}" for name, part in self.parts.items() for knob in part.knobs]
        same_end = [known for known in paths if known.endswith(f".{path}")]
        otherwise = "write views.X, method.X, encoder.X, pretrain.X, or evaluate.NAME.X with an evaluation of this spec"
        return f"did you mean {same_end[0]!r}?" if same_end else did_you_mean(path, paths, otherwise)


def is_trusted(kind: knobs.Kind, name: str, *, stored: bool) -> bool:
    """Whether its settings are taken as they are: those of a plugin, in a stored spec, which has every knob.

    Who only reads a sweep need not have its plugins, and runs no code of theirs; its drivers compare them with the
    ledger's pins.
    """
    return stored and not knobs.is_own(kind, name)


def check_named(kind: knobs.Kind, value: Any, *, stored: bool = False) -> dict[str, Any]:
    """Read `moco`, or `{name: moco, temperature: 0.2}`, into its name and every knob. Raises ValidationError."""
    if isinstance(value, str):
        value = {"name": value}
        loc: tuple[str, ...] = ()
    else:
        loc = ("name",)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        message = f"must name one of the {kind}"
        others = ", timm/NAME, torchvision/NAME" if kind == "encoders" else ""
        remedy = f"write one of {', '.join(knobs.names(kind))}{others}, or {{name: ..., knobs}}"
        raise validation_error(Finding((), value, message, remedy))
    settings = dict(value)
    name = settings.pop("name")
    if is_trusted(kind, name, stored=stored):
        return {"name": name, **settings}
    try:
        target = knobs.load(kind, name)
        knobs.knobs_of(target)
    except knobs.UnknownNameError as error:
        raise validation_error(Finding(loc, name, error.message, error.remedy)) from None
    except PluginError as error:
        raise validation_error(Finding(loc, name, str(error), "")) from None
    if kind == "methods" and (recipe := methods.view_recipe(name)) not in RECIPES:
        message = f"declares view_recipe {recipe!r}, which does not exist"
        raise validation_error(Finding(loc, name, message, did_you_mean(recipe, RECIPES)))
    settings = with_earlier(f"{kind.removesuffix('s')}.{name}", settings) if stored else settings
    return {"name": name, **knobs.check(target, settings, name)}


def named_part(kind: knobs.Kind, values: Mapping[str, Any], *, stored: bool) -> Part:
    """Make the part of a checked encoder or method."""
    settings = {knob: value for knob, value in values.items() if knob != "name"}
    return Part(_target(kind, values["name"], stored), settings, values["name"])


def _target(kind: knobs.Kind, name: str, stored: bool) -> Callable[..., Any] | None:
    return None if is_trusted(kind, name, stored=stored) else knobs.load(kind, name)


def check_fixed(section: str, value: Any, *, stored: bool = False) -> Settings:
    """Fill in every knob of a section of `FIXED`; None means the defaults. Raises ValidationError.

    Of `views`, only the recipe and the knobs that are written stay: the recipe of each trial's method decides the rest.
    """
    given = {} if value is None else value
    given = with_earlier(section, given) if stored and isinstance(given, dict) else given
    if section == "pretrain" and isinstance(given, dict) and given.get("steps") is not None:
        given = {"epochs": None, **given}  # the default of one gives way to the other
    checked = knobs.check(FIXED[section], given, section)
    if section == "data" and checked["subset"] is not None:
        errors = ErrorCollector()
        checked["subset"] = errors.run(("subset",), knobs.check, Subset, checked["subset"], SUBSET)
        errors.raise_if_any()
    return {knob: set_to for knob, set_to in checked.items() if section != "views" or knob in ("recipe", *given)}


def views_of(config: Mapping[str, Any]) -> Settings:
    """The views of a trial: every knob of `Augment`, by the recipe in its config's `views`."""
    written = dict(config["views"])
    recipe = written.pop("recipe")
    recipe = methods.view_recipe(config["method"]["name"]) if recipe == AUTO else recipe
    return complete_views(recipe, config["data"]["image_size"], written)


def check_evaluations(value: Any, *, stored: bool = False) -> Any:
    """Fill in every knob of every evaluation; pydantic refuses another structure. Raises ValidationError."""
    if not isinstance(value, dict):
        return value
    errors = ErrorCollector()
    checked = {
        name: settings
        if is_trusted("evaluations", name, stored=stored)
        else errors.run((name,), _check_evaluation, name, settings, stored)
        for name, settings in value.items()
    }
    errors.raise_if_any()
    return checked


def _check_evaluation(name: str, settings: Any, stored: bool) -> Settings:
    try:
        target = knobs.load("evaluations", name)
        knobs.knobs_of(target)
    except knobs.UnknownNameError as error:
        raise validation_error(Finding((), settings, error.message, error.remedy)) from None
    except PluginError as error:
        raise validation_error(Finding((), settings, str(error), "")) from None
    settings = {} if settings is None else settings
    settings = with_earlier(f"evaluate.{name}", settings) if stored and isinstance(settings, dict) else settings
    return knobs.check(target, settings, name)


def metric_remedy(metric: str, options: Sequence[str]) -> str:
    """The remedy for a metric that the spec's evaluations do not have."""
    evaluation = metric.rpartition("/")[0]
    measured = {option.rpartition("/")[0] for option in options}
    if evaluation in knobs.names("evaluations") and evaluation not in measured:
        return f"add `{evaluation}:` to evaluate, or use one of {', '.join(options)}"
    return did_you_mean(metric, options)


def base_of(sections: Mapping[str, Any], *, stored: bool) -> Base:
    """Collect the sections that a search can vary; a checked section that is missing was in error."""
    parts = {name: Part(target, sections.get(name, {}), name) for name, target in FIXED.items() if name in SEARCHED}
    named = {name: kind for name, kind in NAMED.items() if name in sections}
    parts |= {name: named_part(kind, sections[name], stored=stored) for name, kind in named.items()}
    if sections.get("data", {}).get("subset") is not None:
        parts[SUBSET] = Part(Subset, sections["data"]["subset"], SUBSET)
    for name, settings in sections.get("evaluate", {}).items():
        parts[f"evaluate.{name}"] = Part(_target("evaluations", name, stored), settings, name)
    broken = frozenset((*SEARCHED, "data")) - sections.keys() - (FIXED.keys() - {"data"})
    return Base(parts, broken, stored)


def construct(config: Mapping[str, Any], section: str, shown: Mapping[str, Any]) -> None:
    """Build the cheap objects of a section of a trial's config: knobs that are valid one by one may not fit together.

    Args:
        config: the trial's.
        section: of `CONSTRUCTED`.
        shown: what decides it, for the message.

    Raises ValidationError with that as its value.
    """
    made: dict[str, Callable[[], Any]] = {
        "views": lambda: Augment(config["data"]["image_size"], **config["views"]),
        "pretrain": lambda: Recipe(**config["pretrain"]),
        "data": lambda: _check_subset(config),
        "encoder": lambda: _check_encoder(config["encoder"], config["method"]["name"], config["data"]["image_size"]),
    }
    _build(made[section], shown)


def _check_subset(config: Mapping[str, Any]) -> None:
    """Refuse knobs of a subset that do not fit together, and features of random weights."""
    subset, encoder = subset_of(config["data"]), config["encoder"]
    if subset is None or not subset.needs_features or subset.origin != OWN_ENCODER:
        return
    if not (encoder.get("weights") or encoder.get("from")):
        remedy = "set encoder.weights or encoder.from, or name an earlier sweep"
        raise ValueError(f"data.subset.from: {OWN_ENCODER}: {encoder['name']} begins from random weights; {remedy}")


def _check_encoder(settings: Settings, method: str, image_size: int) -> None:
    """Refuse an encoder that the method cannot use: of a kind that its annotation excludes, or without weights.

    A library's model is built as well, without memory: each takes image sizes of its own.
    """
    name = settings["name"]
    if not methods.can_use(method, name):
        raise ValueError(f"method {method} cannot use {name}; use one of {', '.join(methods.usable_encoders(method))}")
    if settings.get("weights") and settings.get("from"):
        origin, file = settings["from"], settings["weights"]
        raise ValueError(f"encoder.from {origin} and encoder.weights {file} both name weights; leave one out")
    if is_library_name(name):
        _build_without_memory(json.dumps(settings), image_size)


@cache
def _build_without_memory(settings: str, image_size: int) -> None:
    with torch.device("meta"):
        build_encoder(json.loads(settings), image_size)


def _build(make: Callable[[], Any], choice: Mapping[str, Any]) -> None:
    try:
        make()
    except ValueError as error:
        message = (
            error.errors()[0]["msg"].removeprefix("Value error, ") if isinstance(error, ValidationError) else error
        )
        raise validation_error(Finding((), dict(choice) or None, str(message), "")) from None
