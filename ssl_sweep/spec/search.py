"""The `search` section of a spec."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from ssl_sweep.knobs.objective import Objective, parse_objectives
from ssl_sweep.knobs.problems import ErrorCollector, Finding, validation_error
from ssl_sweep.spec.domains import Branches, Categorical, Range
from ssl_sweep.spec.pruners import BY_EPOCH, Halving, Median, Wilcoxon, read_pruner
from ssl_sweep.spec.section import Section

Sampler = Literal["grid", "random", "qmc", "tpe", "gp", "cmaes", "nsga2"]
LEARNING = ("tpe", "gp", "cmaes")
CONDITIONAL = ("grid", "random", "tpe")  # samplers that support knobs which only some choices have

MAX_SEEDS = 1000
CONFIRM_SEEDS = 5


def _seed_list(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 1 <= value <= MAX_SEEDS:
        raise validation_error(
            Finding((), value, "is no number of seeds", f"use a whole number in [1, {MAX_SEEDS}], or a list")
        )
    return list(range(value))


Seeds = tuple[Annotated[int, Field(ge=0)], ...]


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(seeds) > MAX_SEEDS:
        raise validation_error(Finding((), len(seeds), "are too many seeds", f"name at most {MAX_SEEDS}"))
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise validation_error(Finding((), list(seeds), f"has {twice[0]} twice", "name each seed once"))
    return seeds


class Confirm(Section):
    """Runs the best choices again with fresh seeds, which the search has not used."""

    called: ClassVar[str] = "search.confirm"

    top: Annotated[int, Field(ge=1, description="how many choices: those with the best means in the search")] = 3
    seeds: Annotated[
        Seeds,
        Field(
            strict=False,
            min_length=1,
            description="each runs once for each seed; a number n is the n seeds after the last of search.seeds",
        ),
        AfterValidator(_each_once),
    ] = tuple(range(1, 1 + CONFIRM_SEEDS))
    table: Annotated[
        bool,
        Field(
            description="also confirms what the table compares: the best choice of each group of `table.group_by`, and "
            "`table.baseline`; tests of chosen rows need both"
        ),
    ] = False


class Search(Section):
    """Which choices are tried, with which seeds, and which are best."""

    model_config = ConfigDict(serialize_by_alias=True)
    called: ClassVar[str] = "search"

    space: dict[str, Categorical | Range | Branches] = Field(
        default_factory=dict,
        description="{knob path: values}: a path is `views.X`, `method.X`, `encoder.X`, `pretrain.X` or "
        "`evaluate.NAME.X`; values are a list of choices or a range {low, high, log, step}. `method` and "
        "`encoder` take {choices: [NAME, {name: NAME, knob: value, list or range}]}, with knobs of their own",
        json_schema_extra={"default": {}},
    )
    cases: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="{case name: {knob path: value}}: settings compared by name, as values of a knob `case`; "
        "`method: NAME` or `encoder: NAME` in a case replaces that whole section",
        json_schema_extra={"default": {}},
    )
    seeds: Annotated[
        Seeds,
        Field(strict=False, min_length=1, description="every choice runs once for each seed; a number n is 0 to n - 1"),
        BeforeValidator(_seed_list),
    ] = (0,)
    sampler: Annotated[
        Sampler,
        Field(
            description="how choices are proposed: all of them (grid), at random (random), evenly spread (qmc), or "
            "from earlier results: tpe any knobs; gp the same, up to some 100 choices; cmaes ranges only, many "
            "choices; nsga2 any knobs, many choices, for two objectives"
        ),
    ] = "grid"
    pruner: Annotated[
        Literal["none"] | Median | Halving | Wilcoxon,
        BeforeValidator(read_pruner),
        Field(
            description="stops choices early; a name or {name: ..., settings}: by epoch of the first seed (median, "
            "asha, hyperband), the other seeds run once it is complete; or between seeds (wilcoxon)"
        ),
    ] = "none"
    prune_on: Annotated[
        str,
        Field(
            description="`maximize METRIC` or `minimize METRIC` that is reported by epoch; empty: the objective, or "
            "else `maximize pretrain/knn_top1_val`"
        ),
    ] = ""
    objective: Annotated[
        str | Annotated[tuple[str, str], Field(strict=False)],
        Field(
            description="`maximize METRIC` or `minimize METRIC`; empty: maximize the first evaluation's `top1_val`, or "
            "where data.val_fraction is 0 `minimize cost/million_parameters`, which no result decides; or a list of "
            "two, as with a cost: `minimize cost/million_parameters` (of the encoder), `cost/gmacs` (billion "
            "multiply-adds of the encoder, an image), `cost/pretrain_epochs`, `cost/pretrain_gmacs` (epochs x gmacs), "
            "`cost/pretrain_steps` (where the length is given in steps)"
        ),
    ] = ""
    trials: Annotated[
        int | None,
        Field(ge=1, description="how many choices a sampler proposes (not a grid); each runs once for each seed"),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**31, description="the sampler's own seed")] = 0
    earlier: Annotated[
        tuple[str, ...],
        Field(
            strict=False,
            alias="from",
            description="earlier sweeps with the same knobs, in the same ledger, whose results tpe, gp or cmaes learns "
            "from",
        ),
    ] = ()
    confirm: Annotated[
        Confirm | None,
        Field(
            description="after the search, {top, seeds, table}: its best choices run again with fresh seeds, whose "
            "means are reported beside the search's; null: none does"
        ),
    ] = None

    @property
    def prunes_by(self) -> Literal["epoch", "seed"] | None:
        """When the pruner decides, if there is one: after each epoch, or between seeds."""
        return None if isinstance(self.pruner, str) else "epoch" if self.pruner.name in BY_EPOCH else "seed"

    @property
    def prune_objective(self) -> Objective:
        """The metric and direction that an epoch pruner judges; valid only with such a pruner."""
        return Objective.parse(self.prune_on)

    @property
    def prune_sign(self) -> int:
        """-1 if the prune objective and the primary objective have opposite directions, else 1."""
        return self.prune_objective.sign * self.primary.sign

    def at_highest(self, section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A section's settings with each number that the search varies at its highest."""
        highest = dict(settings)
        for knob, fixed in settings.items():
            values = self.candidates(f"{section}.{knob}", fixed)
            if numbers := [value for value in values if isinstance(value, int | float)]:
                highest[knob] = max(numbers)
        return highest

    def candidates(self, path: str, fixed: Any) -> tuple[Any, ...]:
        """The values that a knob can get, a range's by its ends: those searched replace the fixed one."""
        searched = self.space.get(path)
        if isinstance(searched, Categorical):
            return searched.values
        if isinstance(searched, Range):
            return (searched.low, searched.high)
        return (fixed, *(case[path] for case in self.cases.values() if path in case))

    @property
    def branches(self) -> dict[str, Branches]:
        """The searched sections, `method` or `encoder`, by name."""
        return {section: values for section, values in self.space.items() if isinstance(values, Branches)}

    @property
    def branch_knobs(self) -> dict[str, list[Categorical | Range]]:
        """The knobs that only some choices have, by path, with their values in each branch."""
        by_path: dict[str, list[Categorical | Range]] = {}
        for section, branches in self.branches.items():
            for branch in branches.choices:
                for knob, values in branch.space.items():
                    by_path.setdefault(f"{section}.{knob}", []).append(values)
        return by_path

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One or two."""
        return parse_objectives(self.objective)

    @property
    def primary(self) -> Objective:
        """The first objective, which decides where only one can."""
        return self.objectives[0]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The objectives' metrics."""
        return tuple(objective.metric for objective in self.objectives)

    @field_validator("earlier")
    @classmethod
    def _can_learn(cls, earlier: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        sampler = info.data.get("sampler")
        if earlier and sampler is not None and sampler not in LEARNING:
            message = f"has no effect, as sampler {sampler!r} does not learn"
            remedy = f"leave it out, or use one of {', '.join(LEARNING)}"
            raise validation_error(Finding((), list(earlier), message, remedy))
        return earlier

    @field_validator("seeds")
    @classmethod
    def _unique(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        return _each_once(seeds)

    @field_validator("confirm", mode="before")
    @classmethod
    def _read_number_of_seeds(cls, confirm: Any, info: ValidationInfo) -> Any:
        """Turn a number of seeds into the list after the search's own seeds, which may be in error."""
        if not isinstance(confirm, dict):
            return confirm
        errors, given = ErrorCollector(), confirm.get("seeds", CONFIRM_SEEDS)
        listed = errors.run(("seeds",), _seed_list, given)
        errors.raise_if_any()
        if listed is not None and listed is not given:
            first = max(info.data.get("seeds", (0,))) + 1
            listed = [first + seed for seed in listed]
        return {**confirm, "seeds": listed}

    @field_validator("confirm")
    @classmethod
    def _fresh(cls, confirm: Confirm | None, info: ValidationInfo) -> Confirm | None:
        if confirm is not None and (used := sorted(set(confirm.seeds) & set(info.data.get("seeds", ())))):
            message = f"are to be fresh, and the search has used {', '.join(map(str, used))}"
            raise validation_error(
                Finding(("seeds",), list(confirm.seeds), message, "use a number of seeds, or other ones")
            )
        return confirm
