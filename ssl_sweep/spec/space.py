"""Checks a spec's `search` against the other sections: each knob exists, and its type accepts the values."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, get_args

from ssl_sweep.knobs.objective import COST, COSTS, UNCHOSEN, Objective
from ssl_sweep.knobs.problems import ErrorCollector, Finding, validation_error
from ssl_sweep.spec.branches import listed_entries, read_branches
from ssl_sweep.spec.domains import Branches, Categorical, Range
from ssl_sweep.spec.pruners import NONE, PRUNE_ON, parsed_objective, read_prune_on
from ssl_sweep.spec.search import CONDITIONAL, Sampler
from ssl_sweep.spec.sections import NAMED, Base, check_named, metric_remedy
from ssl_sweep.spec.values import read_values


def read_search(
    raw: Mapping[str, Any], base: Base, metrics: list[str] | None, errors: ErrorCollector
) -> dict[str, Any]:
    """Convert every value of the section to its knob's type; mistakes go to `errors`.

    A value with the wrong structure stays as it is, and `Search` refuses it. `metrics` are those of the spec's
    evaluations in their order, None if these are in error.
    """
    read = dict(raw)
    space, cases, objective = raw.get("space"), raw.get("cases"), raw.get("objective", "")
    valid: dict[str, Any] = {}  # the file's entries of the searched knobs that have no mistake
    if isinstance(space, dict):
        readers = {path: read_branches if path in NAMED else _entry for path in space}
        entries = {path: errors.run(("space", path), readers[path], path, space[path], base) for path in space}
        read["space"] = {path: entry for path, entry in entries.items() if entry is not None}
        valid = {path: space[path] for path in read["space"]}
        _check_branches(raw, read["space"], errors)
    if isinstance(cases, dict):
        read["cases"] = {name: _case(name, settings, valid, base, errors) for name, settings in cases.items()}
    if metrics and isinstance(objective, str | list | tuple):
        several = not isinstance(objective, str)
        objectives = errors.run(("objective",), _objectives if several else _objective, objective, metrics)
        read["objective"] = objectives or ("" if several else objective)
        objective = objectives[0] if several and objectives else objectives
        evaluate = {path.removeprefix("evaluate."): part.values for path, part in base.parts.items() if "." in path}
        read["prune_on"] = errors.run(("prune_on",), read_prune_on, raw, objective or PRUNE_ON, evaluate) or ""
    _check_sampler(raw, errors)
    return read


def _check_branches(raw: Mapping[str, Any], space: Mapping[str, Any], errors: ErrorCollector) -> None:
    """Refuse knobs, cases and samplers that do not fit a searched section."""
    cases = raw.get("cases")
    for section in (path for path, entry in space.items() if isinstance(entry, Branches)):
        for path in (knob for knob in space if knob.startswith(f"{section}.")):
            message = f"is a knob of a section that is searched itself, as {section!r} is"
            errors.add(("space", path), None, message, f"move it into the choices of {section!r} that have it")
        for name, case in cases.items() if isinstance(cases, dict) else ():
            for path in (knob for knob in case or () if knob.partition(".")[0] == section):
                message = f"is set by a case, and {section!r} is searched by `search.space` too"
                errors.add(("cases", name, path), case[path], message, "take it out of one of them")
        if raw.get("sampler", "grid") not in CONDITIONAL and raw.get("sampler") in get_args(Sampler):
            message = f"draws every choice from the same knobs, and {section!r} has choices with knobs of their own"
            errors.add(("sampler",), raw["sampler"], message, f"use one of {', '.join(CONDITIONAL)}")


def _entry(path: str, entry: Any, base: Base) -> Categorical | Range | None:
    located = base.locate(path, entry)
    return None if located is None else read_values(entry, *located)


def _case(name: str, settings: Any, space: Mapping[str, Any], base: Base, errors: ErrorCollector) -> dict[str, Any]:
    """Read one case: first its encoder or method, then its knobs, which may be those of that encoder or method."""
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        errors.add(("cases", name), settings, "must be a mapping", "write `{knob path: value}`")
        return {}
    loc = ("cases", name)
    check = partial(check_named, stored=base.stored)
    named = {key: errors.run((*loc, key), check, NAMED[key], settings[key]) for key in NAMED if key in settings}
    own = base.replaced(named)
    read: dict[str, Any] = {key: values for key, values in named.items() if values is not None}
    for path in settings.keys() - named.keys():
        if path in space:
            errors.add((*loc, path), settings[path], "is searched by `search.space` too", "take it out of one of them")
    for path in (path for path in settings if path not in named):
        read[path] = errors.run((*loc, path), _setting, path, settings[path], own)
    for path, entry in space.items():
        section = path.partition(".")[0]
        if section != path and section in read and ErrorCollector().run((), _entry, path, entry, own) is None:
            message = f"does not take what `search.space` gives {path!r}"
            errors.add((*loc, section), settings[section], message, "move that knob into the cases that take it")
    return read


def _setting(path: str, value: Any, base: Base) -> Any:
    located = base.locate(path, value)
    return None if located is None else located[0].typed(located[1], value)


def _objectives(texts: Sequence[Any], metrics: list[str]) -> list[str]:
    errors, remedy = ErrorCollector(), f"write `[maximize {metrics[0]}, minimize {COSTS[0]}]`"
    if len(texts) != 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise validation_error(Finding((), list(texts), "must be one objective or two", remedy))
    read = [errors.run((index,), _objective, text, metrics) or "" for index, text in enumerate(texts)]
    errors.raise_if_any()
    if Objective.parse(read[0]).metric == Objective.parse(read[1]).metric:
        raise validation_error(Finding((1,), texts[1], "is the first objective's metric again", remedy))
    return read


def _objective(text: str, metrics: list[str]) -> str:
    if not text.strip():
        if not any(metric.endswith("_val") for metric in metrics):  # data.val_fraction is 0: nothing is to be chosen
            return UNCHOSEN
        first = metrics[0].rpartition("/")[0]
        if f"{first}/top1_val" not in metrics:
            message = f"is required, as {first} has no top1_val"
            raise validation_error(Finding((), None, message, f"choose from {', '.join(metrics)}"))
        return f"maximize {first}/top1_val"
    objective = parsed_objective(text, f"maximize {metrics[0]}")
    metric = objective.metric
    if metric.endswith("_test"):
        message = "would select on the test split, so that its scores in the table would be too good"
        raise validation_error(Finding((), text, message, f"use {metric.removesuffix('_test')}_val"))
    if metric not in (*metrics, *COSTS) and not metric.startswith("pretrain/"):
        validated = [name for name in metrics if not name.endswith("_test")]
        validated += COSTS if metric.startswith(COST) else []
        raise validation_error(
            Finding((), text, "is no metric of this spec's evaluations", metric_remedy(metric, validated))
        )
    return str(objective)


def _check_sampler(raw: Mapping[str, Any], errors: ErrorCollector) -> None:
    sampler, space = raw.get("sampler", "grid"), raw.get("space", {})
    if sampler == "grid":
        for path, entry in space.items() if isinstance(space, dict) else ():
            for place, values in listed_entries(path, entry):
                if not isinstance(values, dict) or values.get("step") is not None:
                    continue
                remedy = "list the values, or use `sampler: random` with `trials: N`"
                remedy = remedy if values.get("log") else f"add `step:`, {remedy}"
                errors.add(("space", *place), values, "is a range without a step, which a grid cannot list", remedy)
    elif sampler in get_args(Sampler):
        if raw.get("trials") is None:
            message = f"is required by sampler {sampler!r}: it counts choices, each of which runs once for each seed"
            errors.add(("trials",), None, message, "add `trials: 20`, say")
        if not space and not raw.get("cases"):
            errors.add(
                ("space",), None, f"is empty: sampler {sampler!r} has nothing to search", "name a knob to search"
            )
    if sampler == "cmaes":
        _check_ranges(raw, errors)
    if not isinstance(raw.get("objective", ""), str):
        _check_two_objectives(raw, errors)


def _check_two_objectives(raw: Mapping[str, Any], errors: ErrorCollector) -> None:
    """CMA-ES and Optuna's pruners optimize one number."""
    if raw.get("sampler") == "cmaes":
        errors.add(
            ("sampler",), "cmaes", "follows one objective, not two", "use `sampler: nsga2`, or name one objective"
        )
    pruner = raw.get("pruner", NONE)
    if pruner != NONE:
        message = "judges by one objective, and a choice that loses in one may win in the other"
        errors.add(("pruner",), pruner, message, "use `pruner: none`, or name one objective")


def _check_ranges(raw: Mapping[str, Any], errors: ErrorCollector) -> None:
    """CMA-ES moves a normal distribution: it cannot use values without an order."""
    space = raw.get("space")
    for path, entry in space.items() if isinstance(space, dict) else ():
        if isinstance(entry, list):
            message = "is a list of choices, and sampler 'cmaes' searches ranges only"
            errors.add(("space", path), entry, message, "write `{low: ..., high: ...}`, or use `sampler: tpe`")
    if cases := raw.get("cases"):
        message = "are choices, and sampler 'cmaes' searches ranges only"
        errors.add(("cases",), list(cases), message, "use `sampler: tpe`, or write one spec for each case")
