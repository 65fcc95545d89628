"""Mistakes of a spec that show only when its methods are built: told before anything runs.

A stored spec is not checked: it is read each time somebody looks at its sweep, and its trials have run.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch

from ssl_sweep.data.eval_crop import eval_crop_of
from ssl_sweep.data.subset import images_pretrained_on
from ssl_sweep.knobs import knobs, methods
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.knobs.objective import COSTS_BY_EPOCHS, COSTS_BY_STEPS
from ssl_sweep.knobs.problems import Finding, Loc, Problem, SpecError, key_text
from ssl_sweep.models.encoders import Encoder, build_encoder
from ssl_sweep.spec.choices import extremes
from ssl_sweep.spec.domains import Categorical, Range
from ssl_sweep.spec.pins import settings_of
from ssl_sweep.spec.pruners import PRUNE_ON
from ssl_sweep.spec.pruning import pretrain_lengths
from ssl_sweep.spec.sections import CASE
from ssl_sweep.spec.sweep import SweepSpec, resolve

MAX_COMBINED = 2000  # choices that are looked at
MAX_BUILT = 30  # different pairs of encoder and method that are built
BATCH_SIZE = "pretrain.batch_size"

Config = Mapping[str, Any]


def launch_findings(spec: SweepSpec) -> list[Finding]:
    """What is wrong with the methods and encoders of a sweep's choices, each mistake once.

    Each different pair of method and encoder is built, on the meta device: without memory or training.
    """
    built = _found(spec, partial(_build_errors, workers=spec.resources.workers))
    first = [*_reported_once(spec), *_costs_of_another_unit(spec), *_without_validation(spec)]
    return [*first, *(built or _evaluation_findings(spec))]


def _costs_of_another_unit(spec: SweepSpec) -> Iterator[Finding]:
    """Objectives by the length of pretraining in another unit than some trials have: they could not be compared."""
    units = {"steps" if each["steps"] else "epochs" for each in pretrain_lengths(spec.search, spec.pretrain)}
    for metric, unit, other in [
        *((metric, "epochs", "steps") for metric in COSTS_BY_EPOCHS),
        *((metric, "steps", "epochs") for metric in COSTS_BY_STEPS),
    ]:
        if metric in spec.search.metrics and other in units:
            message = f"{metric} is not known where the length of pretraining is given in {other}"
            remedy = f"give it in {unit}, or use {' or '.join(COSTS_BY_STEPS if other == 'steps' else COSTS_BY_EPOCHS)}"
            yield Finding(("search", "objective"), str(spec.search.objective), message, remedy)


def size_findings(spec: SweepSpec, train_images: int) -> list[Finding]:
    """The settings of a sweep's choices that do not fit the number of training images, each mistake once."""
    return _found(spec, partial(_size_errors, workers=spec.resources.workers, train_images=train_images))


def derived_sizes(spec: SweepSpec, train_images: int) -> dict[str, dict[str, list[Any]]]:
    """The values that null stands for with so many training images: by cases or methods, `moco; leoclr`, and knob.

    The spec has no `size_findings`.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for choice, config in _pretrained(spec):
        name, batch_size = config["method"]["name"], config["pretrain"]["batch_size"]
        sizes = methods.derived(
            config["method"], batch_size=batch_size, train_images=images_pretrained_on(config, train_images)
        )
        for knob, value in sizes.items():
            values = found.setdefault(str(choice.get(CASE, name)), {}).setdefault(knob, [])
            values += [value] * (value not in values)
    alike: dict[str, list[str]] = {}
    for name, knobs_of in found.items():
        alike.setdefault(repr(knobs_of), []).append(name)
    return {"; ".join(names): found[names[0]] for names in alike.values()}


def size_warnings(spec: SweepSpec, train_images: int) -> list[str]:
    """What works with so few training images, but is hardly meant. The spec has no `size_findings`."""
    return [*_large_batches(spec, train_images), *_method_warnings(spec, train_images)]


def _method_warnings(spec: SweepSpec, train_images: int) -> list[str]:
    found = []
    for _, config in _pretrained(spec):
        batch_size = config["pretrain"]["batch_size"]
        seen = images_pretrained_on(config, train_images)
        found.append(methods.check_sizes(config["method"], batch_size=batch_size, train_images=seen))
    return [f"method.{warning}" for warning in dict.fromkeys(found) if warning]


def _large_batches(spec: SweepSpec, train_images: int) -> list[str]:
    configs = [config for _, config in _different(spec) if methods.pretrains(config["method"]["name"])]
    sizes = sorted(
        {(config["pretrain"]["batch_size"], images_pretrained_on(config, train_images)) for config in configs}
    )
    large = [(size, images) for size, images in sizes if size > images]
    return [
        f"{BATCH_SIZE}: {size} is more than the {images} training images: an epoch is one step with all of them"
        for size, images in large[-1:]
    ]


def pretrained_on(spec: SweepSpec, train_images: int) -> list[int]:
    """The different numbers of images that trials are pretrained on, ascending; the most, where features decide."""
    return sorted({images_pretrained_on(config, train_images) for _, config in _pretrained(spec)})


def launch_error(file: str, findings: Sequence[Finding]) -> SpecError:
    """The findings as an error, of a file whose lines are no longer known."""
    return SpecError([Problem(file, None, key_text(each.loc), *each[1:]) for each in findings])


def _found(spec: SweepSpec, errors_of: Callable[[Config], Iterator[tuple[str, str]]]) -> list[Finding]:
    findings: dict[Loc, Finding] = {}
    for choice, config in islice(_different(spec), MAX_BUILT):
        for section, error in errors_of(config):
            finding = placed(spec, choice, config, section, error)
            findings.setdefault(finding.loc, finding)
    return list(findings.values())


def _different(spec: SweepSpec) -> Iterator[tuple[Config, Config]]:
    """The choices, with their configs, whose encoder, method, batch size or subset differs from those before."""
    known = set()
    for choice in islice(extremes(spec.search, _decides), MAX_COMBINED):
        config = resolve(spec, choice, spec.search.seeds[0])
        made = json.dumps(
            [config["encoder"], config["method"], config["pretrain"]["batch_size"], config["data"]["subset"]]
        )
        if made not in known:
            known.add(made)
            yield choice, config


def _pretrained(spec: SweepSpec) -> Iterator[tuple[Config, Config]]:
    """Those of `_different` that pretrain, as many as are checked."""
    choices = islice(_different(spec), MAX_BUILT)
    return ((choice, config) for choice, config in choices if methods.pretrains(config["method"]["name"]))


def _decides(path: str) -> bool:
    return path.partition(".")[0] in ("encoder", "method", CASE, "data") or path == BATCH_SIZE


def _build_errors(config: Config, workers: int) -> Iterator[tuple[str, str]]:
    """The sections of a trial's config that cannot be built, or do not fit its batches, and why."""
    name = config["method"]["name"]
    if error := _build_error(config, only_encoder=True):
        yield "encoder", error
    elif not _takes(config, crop := eval_crop_of(config["data"]).size):
        own, encoder = config["data"]["image_size"], config["encoder"]["name"]
        words = f"eval_crop: {encoder} is built for images of {own} pixels, and does not take {crop}"
        yield "data", f"{words}; leave crop out, or use an encoder that does"
    elif error := methods.lacking(name) or _build_error(config):
        yield "method", error
    if not methods.pretrains(name):
        return
    for knob, groups in methods.batch_groups(name, config["method"]).items():
        if groups % workers:
            words = f"{knob}: {groups} groups of a batch cannot be shared evenly by {workers} workers"
            yield "method", f"{words} (resources.workers); make it a multiple of {workers}"
    yield from _method_errors(config, train_images=None)


def _size_errors(config: Config, workers: int, train_images: int) -> Iterator[tuple[str, str]]:
    batch_size, train_images = config["pretrain"]["batch_size"], images_pretrained_on(config, train_images)
    if not methods.pretrains(config["method"]["name"]):
        return
    if batch_size > train_images and train_images % workers:
        words = f"batch_size: {batch_size} is more than the {train_images} training images, whose one batch {workers}"
        remedy = f"take {max(workers, train_images // workers * workers)}"
        yield "pretrain", f"{words} workers (resources.workers) cannot share evenly; {remedy}"
    yield from _method_errors(config, train_images)


def _method_errors(config: Config, train_images: int | None) -> Iterator[tuple[str, str]]:
    """What the method itself refuses about its knobs, the batch and the number of training images."""
    try:
        methods.check_sizes(config["method"], batch_size=config["pretrain"]["batch_size"], train_images=train_images)
    except ValueError as error:
        yield "method", str(error)


def _takes(config: Config, side: int) -> bool:
    """Whether the encoder has features of the same length for images of this side."""
    if side == config["data"]["image_size"]:
        return True
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            encoder = build_encoder(config["encoder"], config["data"]["image_size"]).eval()
            return tuple(encoder(torch.zeros(1, 3, side, side)).shape) == (1, encoder.feature_dim)
    except (RuntimeError, ValueError, AssertionError):
        return False


def _build_error(config: Config, *, only_encoder: bool = False) -> str | None:
    """Why a trial's encoder, or its method too, cannot be built; None if it can."""
    try:
        with torch.device("meta"):
            _build(config, only_encoder)
    except ValueError as error:
        return str(error)
    except Exception:
        return _build_error_with_memory(config, only_encoder)
    return None


def _build_error_with_memory(config: Config, only_encoder: bool) -> str | None:
    try:
        with torch.random.fork_rng(devices=[]):
            _build(config, only_encoder)
    except ValueError as error:
        return str(error)
    except Exception as error:
        return f"cannot be built: {type(error).__name__}: {error}"
    return None


def _build(config: Config, only_encoder: bool) -> None:
    size = config["data"]["image_size"]
    encoder = build_encoder(config["encoder"], size)
    if only_encoder:  # one image through it: the layers of some need more pixels than others
        with torch.no_grad():
            encoder.eval()(torch.zeros(1, 3, size, size))
    else:
        settings = dict(config["method"])
        knobs.load("methods", settings.pop("name"))(encoder, **settings)


def _evaluation_findings(spec: SweepSpec) -> list[Finding]:
    """The knobs of evaluations that do not fit an encoder of the sweep, each once."""
    findings: dict[Loc, Finding] = {}
    encoders = {json.dumps(config["encoder"]): config for _, config in islice(_different(spec), MAX_BUILT)}
    for config in encoders.values():
        for place, name, settings in _evaluation_settings(spec, config):
            try:
                load_evaluation(name).check_encoder(settings, _encoder_of(config))
            except ValueError as error:
                knob, _, message = str(error).partition(": ")
                loc: Loc = place or ("evaluate", name, knob)
                findings.setdefault(loc, Finding(loc, settings.get(knob), message, ""))
    return list(findings.values())


def _evaluation_settings(spec: SweepSpec, config: Config) -> Iterator[tuple[Loc, str, Config]]:
    """The settings that evaluations can have: those of a choice, and each value that is listed for a searched knob."""
    for name, settings in config["evaluate"].items():
        yield (), name, settings
        for path, values in spec.search.space.items():
            section, _, knob = path.rpartition(".")
            if section == f"evaluate.{name}" and isinstance(values, Categorical | Range):
                for value in values.listed():
                    yield ("search", "space", path), name, {**settings, knob: value}


def _encoder_of(config: Config) -> Encoder:
    """A trial's encoder, which has no `_build_error`, without memory if it can be."""
    size = config["data"]["image_size"]
    try:
        with torch.device("meta"):
            return build_encoder(config["encoder"], size)
    except Exception:
        with torch.random.fork_rng(devices=[]):
            return build_encoder(config["encoder"], size)


def placed(spec: SweepSpec, choice: Config, config: Config, section: str, error: str) -> Finding:
    """A finding at the key that the error names, where the search, a case or the section gives its value."""
    settings = config[section]
    owner = str(settings.get("name", section))
    message = error.removeprefix(f"{owner}: ").removeprefix(f"{section}.")
    knob = next((word for word in re.findall(r"\w+", message) if word in settings and word != "name"), None)
    value = owner if knob is None else settings[knob]
    message = message if knob is None else message.removeprefix(f"{knob}: ").removeprefix(f"{value} ")
    path = section if knob is None else f"{section}.{knob}"
    loc: Loc = (section,) if knob is None else (section, knob)
    if path in spec.search.space or section in spec.search.space:
        loc = ("search", "space", path if path in spec.search.space else section)
    elif CASE in choice and {path, section} & spec.search.cases[choice[CASE]].keys():
        case = spec.search.cases[choice[CASE]]
        loc = ("search", "cases", choice[CASE], path if path in case else section)
    return Finding(loc, value, message, "")


def _without_validation(spec: SweepSpec) -> Iterator[Finding]:
    """What evaluations leave to validation images, where none are held out."""
    if spec.data["val_fraction"]:
        return
    for name, own in spec.evaluate.items():
        evaluation, section = load_evaluation(name), f"evaluate.{name}."
        for settings in settings_of(spec, name):
            searched = {knob for knob in own if settings[knob] == own[knob] and f"{section}{knob}" in spec.search.space}
            for knob in set(evaluation.chosen_on_validation(settings)) - searched:
                message = "has several values, of which validation would choose, and data.val_fraction is 0"
                remedy = "give one value, or hold images out by data.val_fraction"
                yield Finding(("evaluate", name, knob), settings[knob], message, remedy)
        if own.get("refit"):
            message = "adds validation images, and there are none, as data.val_fraction is 0"
            yield Finding(("evaluate", name, "refit"), True, message, "leave it out")


def _reported_once(spec: SweepSpec) -> Iterator[Finding]:
    """An epoch pruner that judges by what an evaluation reports at its end."""
    if spec.search.prunes_by != "epoch":
        return
    metric = spec.search.prune_objective.metric
    stage = metric.partition("/")[0]
    if stage in spec.evaluate and metric not in load_evaluation(stage).epoch_metrics(spec.evaluate[stage]):
        message = f"is reported once, when {stage} has ended: nothing could be pruned by it"
        yield Finding(("search", "prune_on"), spec.search.prune_on, message, f"leave it out, or use `{PRUNE_ON}`")
