"""The frozen `SweepSpec` of a spec file, and the choices and trial configs that follow from it.

`file.load_spec` reads one from YAML. Every mistake is reported at once: each section is checked by itself, the search
and the table against the sections that they name.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import load_evaluation, without_validation
from ssl_sweep.knobs.objective import parse_objectives
from ssl_sweep.knobs.problems import ErrorCollector, Finding, SpecError, did_you_mean, spec_error, validation_error
from ssl_sweep.spec.choices import all_choices, deciding, num_settings, place_of, searched, to_construct, varies_data
from ssl_sweep.spec.domains import Branch, Categorical, Range
from ssl_sweep.spec.older import completed
from ssl_sweep.spec.pruning import pruning_findings
from ssl_sweep.spec.search import Search
from ssl_sweep.spec.section import Resources, Section, Tracking
from ssl_sweep.spec.sections import (
    CASE,
    NAMED,
    SEARCHED,
    Settings,
    base_of,
    check_evaluations,
    check_fixed,
    check_named,
    construct,
    is_trusted,
    views_of,
)
from ssl_sweep.spec.space import read_search
from ssl_sweep.spec.table import Table, read_table
from ssl_sweep.storage.layout import FILES
from ssl_sweep.training.health import METRICS as HEALTH_METRICS

__all__ = [
    "Categorical", "Range", "SpecError", "SweepSpec", "from_dump", "grid", "resolve", "space",
]  # fmt: skip

MAX_GRID = 10_000


def _fixed(section: str) -> BeforeValidator:
    return BeforeValidator(lambda value, info: check_fixed(section, value, stored=_is_stored(info)))


def _is_stored(info: ValidationInfo) -> bool:
    """Whether `from_dump` reads the spec."""
    return bool(info.context)


def _named(section: str) -> BeforeValidator:
    return BeforeValidator(lambda value, info: check_named(NAMED[section], value, stored=_is_stored(info)))


class SweepSpec(Section):
    """One sweep. Its sections are plain JSON data with every knob filled in; do not change them either."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
            description="name of the sweep's study, runs and folder: letters, digits, `.`, `_`, `-`, at most 100",
        ),
    ]
    description: Annotated[str | None, Field(description="shown with the sweep")] = None
    data: Annotated[Settings, _fixed("data"), Field(description="which images")]
    encoder: Annotated[Settings, _named("encoder"), Field(description="a name, or {name: ..., knobs}")]
    method: Annotated[Settings, _named("method"), Field(description="a name, or {name: ..., knobs}")]
    views: Annotated[Settings, _fixed("views")] = Field(
        default_factory=dict, description="fixed values; the search overrides those that it names"
    )
    pretrain: Annotated[Settings, _fixed("pretrain")] = Field(
        default_factory=dict, description="how the method is trained"
    )
    health: Annotated[Settings, _fixed("health")] = Field(
        default_factory=dict, description="what is measured between the epochs of pretraining, and the collapse alarm"
    )
    evaluate: Annotated[
        dict[str, Settings],
        BeforeValidator(lambda value, info: check_evaluations(value, stored=_is_stored(info))),
        Field(min_length=1, description="{evaluation: {knobs}}: what is measured after pretraining"),
    ]
    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        Field(description="auto: bf16 if the hardware multiplies matrices in it, else fp32"),
    ] = "auto"
    resources: Annotated[Resources, Field(description="the resources of one trial")] = Resources()
    retries: Annotated[
        int, Field(ge=0, description="how often a crashed trial is tried again, after 1, 2, 4, ... at most 60 s")
    ] = 2
    lost_retries: Annotated[
        int, Field(ge=0, description="how often a trial that lost its process or node, or hung, is tried again")
    ] = 5
    keep_encoders: Annotated[
        int | None,
        Field(
            ge=1, description="how many of the best choices keep their encoders when the sweep has ended; null: all do"
        ),
    ] = None
    tracking: Annotated[Tracking, Field(description="where the runs are shown")] = Tracking()
    search: Annotated[Search, Field(description="what is searched, and how")] = Search()
    table: Annotated[Table, Field(description="what the ablation table shows")] = Table()
    root: Annotated[Path, Field(strict=False, description="the folder that a relative data source starts from")] = (
        Path()
    )

    @field_validator("search", mode="wrap")
    @classmethod
    def _read_search(cls, raw: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        raw = {} if raw is None else raw.model_dump(exclude_unset=True) if isinstance(raw, Search) else raw
        errors, stored = ErrorCollector(), _is_stored(info)
        base, metrics = base_of(info.data, stored=stored), _metrics(info.data, stored)
        read = read_search(raw, base, metrics, errors) if isinstance(raw, dict) else raw
        search = errors.run((), handler, read)
        errors.raise_if_any()
        return search

    @field_validator("table", mode="wrap")
    @classmethod
    def _read_table(cls, raw: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        raw = {} if raw is None else raw.model_dump(exclude_unset=True) if isinstance(raw, Table) else raw
        errors, search = ErrorCollector(), info.data.get("search")
        knobs_searched = searched(search) if search is not None else None
        metrics = _metrics(info.data, _is_stored(info))
        read = read_table(raw, knobs_searched, metrics, info.data, errors) if isinstance(raw, dict) else raw
        table = errors.run((), handler, read)
        errors.raise_if_any()
        return table

    @model_validator(mode="after")
    def _search_fits(self, info: ValidationInfo) -> Self:
        """Objectives that name pretraining exist: its loss, and what `health` measures. Pruners can prune something."""
        errors = ErrorCollector()
        watched = self.health["every"] and self.data["val_fraction"]
        measured = [f"pretrain/{name}" for name in ("loss", *(HEALTH_METRICS if watched else ()))]
        off = "health.every" if self.data["val_fraction"] else "data.val_fraction"
        message = "is no result of pretraining" if watched else f"is not measured, as {off} is 0"
        judged = [("objective", objective) for objective in self.search.objectives]
        judged += [("prune_on", objective) for objective in parse_objectives(self.search.prune_on)]
        for key, objective in judged:
            if objective.metric.startswith("pretrain/") and objective.metric not in measured:
                errors.add(("search", key), str(objective), message, did_you_mean(objective.metric, measured))
        if self.name in self.search.earlier:
            errors.add(("search", "from"), self.name, "is this sweep itself", "give the new sweep another name")
        if self.name in FILES and not _is_stored(info):
            errors.add(("name",), self.name, "is a file of every storage", "give the sweep another name")
        if not self._is_trusted(info):
            found = pruning_findings(self.search, self.method, self.pretrain, self.evaluate)
            errors.findings += [finding.nested_in("search") for finding in found]
        errors.raise_if_any()
        return self

    @model_validator(mode="after")
    def _batches_can_be_shared(self, info: ValidationInfo) -> Self:
        """Every batch divides evenly among the workers."""
        errors, workers = ErrorCollector(), self.resources.workers
        searched = self.search.space.get("pretrain.batch_size")
        loc: tuple[str, ...] = ("pretrain", "batch_size")
        sizes: Iterable[Any] = (self.pretrain["batch_size"],)
        if isinstance(searched, Categorical | Range):
            loc, sizes = ("search", "space", "pretrain.batch_size"), searched.listed()
        for size in sizes:
            if size % workers:
                nearest_sizes = f"{size // workers * workers or workers} or {(size // workers + 1) * workers}"
                message = f"cannot be shared evenly by {workers} workers (resources.workers)"
                errors.add(loc, size, message, f"use {nearest_sizes}")
        errors.raise_if_any()
        return self

    @model_validator(mode="after")
    def _constructible(self, info: ValidationInfo) -> Self:
        """Knobs that are valid one by one may not fit together: build the objects that are cheap to build."""
        size = math.prod(num_settings(values) or 0 for values in self.search.space.values())
        size *= len(self.search.cases) or 1
        if self.search.sampler == "grid" and size > MAX_GRID:
            message = f"is a grid of {size:,} choices"
            raise validation_error(
                Finding(("search", "space"), None, message, "use `sampler: random` with `trials: N`")
            )
        if self._is_trusted(info):
            return self
        errors = ErrorCollector()
        if not varies_data(self.search):
            errors.run(("data",), construct, {"data": self.data, "encoder": self.encoder}, "data", {})
        for choice, shown, sections in to_construct(self.search):
            config = resolve(self, choice, self.search.seeds[0])
            for section in sections:
                place = place_of(self.search, choice, section)
                errors.run(place, construct, config, section, deciding(shown, section, place))
        errors.raise_if_any()
        return self

    @property
    def names(self) -> Iterator[tuple[knobs.Kind, str]]:
        """The methods, encoders and evaluations that a trial can have, some of them twice."""
        for section, kind in NAMED.items():
            yield kind, getattr(self, section)["name"]
            yield from ((kind, case[section]["name"]) for case in self.search.cases.values() if section in case)
            if section in self.search.branches:
                yield from ((kind, name) for name in self.search.branches[section].names)
        yield from (("evaluations", name) for name in self.evaluate)

    def _is_trusted(self, info: ValidationInfo) -> bool:
        """Whether checks that need the code of its plugins have been made before it was stored."""
        return any(is_trusted(kind, name, stored=_is_stored(info)) for kind, name in self.names)


def space(spec: SweepSpec) -> dict[str, Categorical | Range]:
    """The searched knobs that every choice has, by path, in the file's order; `case` comes first if there are cases.

    A searched section, `method` or `encoder`, is one of them; the knobs of its branches are in `search.branches`.
    """
    return searched(spec.search)


def grid(spec: SweepSpec) -> list[Settings]:
    """Every choice of a grid; the first knob changes slowest."""
    return all_choices(spec.search)


def resolve(spec: SweepSpec, choice: Mapping[str, Any], seed: int) -> Settings:
    """The config of one trial, as `trial.run` takes it: plain JSON data with every knob.

    Args:
        spec: the sweep.
        choice: a value for each searched knob, by path, and for `case`.
        seed: the trial's.

    Raises:
        ValueError: a searched knob has no value; also SpecError: a knob does not exist, or does not accept its value.
    """
    sections = {section: _branch(spec.search, section, choice[section]) for section in spec.search.branches}
    wanted = [*space(spec), *(f"{section}.{knob}" for section, branch in sections.items() for knob in branch.space)]
    if missing := sorted(set(wanted) - choice.keys()):
        raise ValueError(f"a choice of {spec.name} has no value for {', '.join(missing)}; give every knob one")
    settings = {path: value for path, value in choice.items() if path not in sections}
    settings |= {section: {"name": branch.name, **branch.fixed} for section, branch in sections.items()}
    if spec.search.cases:
        settings = {**spec.search.cases[settings.pop(CASE)], **settings}
    settings |= _replaced_length(settings)
    dumped = copy.deepcopy({name: getattr(spec, name) for name in ("data", *SEARCHED)})
    config = {**dumped, **{name: dict(settings.pop(name)) for name in NAMED if name in settings}}
    # plugins are trusted: their values were checked when the spec was read
    base, errors = base_of(config, stored=True), ErrorCollector()
    for path, value in settings.items():
        if (located := errors.run((path,), base.locate, path, value)) is not None:
            part, knob = located
            _section(config, path)[knob] = errors.run((path,), part.typed, knob, value)
    if errors.findings:
        raise spec_error(validation_error(*errors.findings), lambda _: (f"a choice of {spec.name}", None))
    config["views"] = views_of(config)
    data = {**config["data"], "root": str(spec.root)}
    return {**config, "data": data, "health": dict(spec.health), "precision": spec.precision, "seed": seed}


def from_dump(dump: Mapping[str, Any]) -> SweepSpec:
    """Restore a spec from its `model_dump(mode="json")`. The order of the dump's keys is the order of the grid.

    A dump of an earlier version keeps its meaning (`older.completed`, `knobs.earlier`). The settings of plugins are
    taken as they are, and no code of theirs is imported.

    Raises:
        SpecError: the dump is from another version of the package, with other knobs.
    """
    try:
        return SweepSpec.model_validate(completed(dump), context={"stored": True})
    except ValidationError as error:
        raise spec_error(error, lambda _: ("the stored spec", None)) from None


def _branch(search: Search, section: str, name: Any) -> Branch:
    return next(branch for branch in search.branches[section].choices if branch.name == name)


def _replaced_length(settings: Settings) -> Settings:
    """A length of pretraining that a choice or its case gives replaces the one of the section, in the other unit."""
    cleared: tuple[str, ...] = ()
    if settings.get("pretrain.steps") is not None:
        cleared = ("pretrain.epochs",)
    elif settings.get("pretrain.epochs") is not None:
        cleared = ("pretrain.steps", "pretrain.epoch_steps")
    return {path: None for path in cleared if path not in settings}


def _metrics(sections: Mapping[str, Any], stored: bool) -> list[str] | None:
    """The metrics of the evaluations; None if these are in error, or trusted: their code is not at hand."""
    evaluations = sections.get("evaluate")
    if evaluations is None or any(is_trusted("evaluations", name, stored=stored) for name in evaluations):
        return None
    metrics = [metric for name, settings in evaluations.items() for metric in load_evaluation(name).metrics(settings)]
    held_out = sections.get("data", {}).get("val_fraction", True)  # an invalid section is reported by itself
    return metrics if held_out else without_validation(metrics)


def _section(config: Settings, path: str) -> Settings:
    section: Settings = config
    for key in path.split(".")[:-1]:
        section = section[key]
    return section
