"""The contract of evaluations: what is returned is declared, means something, and survives a resume."""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ssl_sweep.contracts.contract import Check, Contract, ContractError, NotChecked, require
from ssl_sweep.contracts.knob_checks import check_knobs, checked_knobs
from ssl_sweep.contracts.made_images import SIDE, Labels, flat_colours
from ssl_sweep.contracts.small import small
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import Evaluation
from ssl_sweep.models.encoder import Encoder
from ssl_sweep.training.loop import Stage, Stop

WIRING = ("encoder", "splits", "stage")
DECLARATIONS = (
    "metrics",
    "epoch_metrics",
    "planned_epochs",
    "chosen_on_validation",
    "data_sources",
    "check_data",
    "check_encoder",
)
HIGH = 95  # percent of separable classes
CHANCE = (12, 38)  # percent of 200 images of four classes
Reports = list[tuple[dict[str, float], int]]


@dataclass(frozen=True)
class EvaluationPlugin:
    """An evaluation, and the knobs that the checks run it with."""

    evaluation: Evaluation
    module: ModuleType
    settings: Mapping[str, Any]
    needs: str | None = None

    @property
    def every_knob(self) -> dict[str, Any]:
        return checked_knobs(self.evaluation.evaluate, self.settings, self.evaluation.name)

    def declared(self) -> set[str]:
        """The metrics that it declares, without its name."""
        return _bare(self.evaluation.metrics(self.every_knob))

    def run(
        self, folder: Path, *, labels: Labels = "colours", stop_at: int | None = None
    ) -> tuple[dict[str, float], Reports]:
        """The metrics and the reports; stopped by the report of that number, no metrics."""
        reports: Reports = []

        def report(metrics: dict[str, float], step: int) -> None:
            reports.append((metrics, step))
            if len(reports) == stop_at:
                raise Stop("asked to")

        torch.manual_seed(0)
        stage = Stage(folder, report, 1, torch.device("cpu"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return self.evaluation.evaluate(_colours(), flat_colours(labels), stage, **self.every_knob), reports
        except Stop:
            return {}, reports


def _colours() -> Encoder:
    """Features that are a trainable map of the mean colour: separable as they stand."""
    return Encoder(nn.Conv2d(3, 6, 1), SIDE, (6, SIDE, SIDE))


def load(name: str) -> EvaluationPlugin:
    """The evaluation of that name, with the knobs of its CHECK; raises as `knobs.load_module`."""
    module = knobs.load_module("evaluations", name)
    settings = small(module)
    return EvaluationPlugin(Evaluation(name, module), module, settings.knobs, settings.needs)


def its_knobs_have_types_and_defaults_and_texts(plugin: EvaluationPlugin) -> None:
    evaluate = plugin.evaluation.evaluate
    check_knobs(evaluate, WIRING, required=tuple(plugin.settings))
    checked_knobs(evaluate, plugin.settings, plugin.evaluation.name)


def its_declarations_take_their_arguments(plugin: EvaluationPlugin) -> None:
    own, at = vars(plugin.module), plugin.evaluation.evaluate
    remedy = 'write METRICS = ("top1_val", "top1_test"), the names that evaluate returns'
    require("METRICS" in own or "metrics" in own, f"the file declares no metrics; {remedy}", at)
    for name in DECLARATIONS:
        if name in own:
            _, *expected = inspect.signature(getattr(Evaluation, name)).parameters
            takes = list(inspect.signature(own[name]).parameters)
            require(takes == expected, f"{name} takes {takes}; let it take {expected}", own[name])


def its_declarations_follow_from_its_settings(plugin: EvaluationPlugin) -> None:
    evaluation, at = plugin.evaluation, plugin.evaluation.evaluate
    every_knob = plugin.every_knob
    metrics = evaluation.metrics(every_knob)
    require(bool(metrics) and all(isinstance(metric, str) for metric in metrics), "metrics are no names; name some", at)
    remedy = "a pruner judges on validation images: declare those alone, or none"
    for metric in evaluation.epoch_metrics(every_knob):
        require(metric.endswith("_val"), f"epoch_metrics has {metric}; {remedy}", at)
    require(evaluation.planned_epochs(every_knob) >= 0, "planned_epochs is below 0; return the epochs it trains", at)
    sources = evaluation.data_sources(every_knob)
    remedy = "return names as data.source has them"
    require(all(isinstance(source, str) for source in sources), f"data_sources returns {sources!r}; {remedy}", at)
    with TemporaryDirectory() as folder:
        if plugin.needs is None:
            evaluation.check_data(every_knob, Path(folder))


def it_reports_and_returns_the_metrics_that_it_declares(plugin: EvaluationPlugin) -> None:
    if plugin.needs is not None:
        raise NotChecked(f"it needs {plugin.needs}")
    at, declared = plugin.evaluation.evaluate, plugin.declared()
    with TemporaryDirectory() as folder:
        metrics, reports = plugin.run(Path(folder))
    words = f"it returns {sorted(metrics)} and declares {sorted(declared)}"
    require(set(metrics) == declared, f"{words}; let METRICS, or metrics(settings), name what it returns", at)
    for metric, value in metrics.items():
        require(math.isfinite(value), f"{metric} is {value}; return a finite number", at)
    require(bool(reports), "it reports nothing; end with stage.report(results, step)", at)
    last = reports[-1][0]
    missing = sorted(metric for metric in metrics if last.get(metric) != metrics[metric])
    require(not missing, f"its last report lacks {missing}, or has other values; report what is returned", at)
    numbers = [step for _, step in reports]
    words = f"its reports have the steps {numbers}"
    require(numbers == list(range(1, len(reports) + 1)), f"{words}; number them 1, 2, 3, ...", at)


def it_reports_the_metrics_of_pruners_after_each_epoch(plugin: EvaluationPlugin) -> None:
    evaluation, every_knob = plugin.evaluation, plugin.every_knob
    by_epoch, epochs = _bare(evaluation.epoch_metrics(every_knob)), evaluation.epochs(every_knob)
    if not by_epoch or evaluation.data_sources(every_knob):  # a mean over sources is known after the last alone
        return
    with TemporaryDirectory() as folder:
        _, reports = plugin.run(Path(folder))
    steps = [step for metrics, step in reports if by_epoch <= metrics.keys()][:epochs]
    words = f"{sorted(by_epoch)} are reported at the steps {steps}, not at 1 to {epochs}"
    remedy = "report them after each epoch, or let epoch_metrics(settings) return ()"
    require(steps == list(range(1, epochs + 1)), f"{words}; {remedy}", evaluation.evaluate)


def it_runs_on_images_without_labels(plugin: EvaluationPlugin) -> None:
    with TemporaryDirectory() as folder:
        metrics, _ = plugin.run(Path(folder), labels="none")
    wrong = sorted(metric for metric, value in metrics.items() if not math.isfinite(value))
    words = f"NEEDS_LABELS is False, and on images without labels it returns no finite {', '.join(wrong)}"
    require(not wrong, f"{words}; compute it without labels, or remove NEEDS_LABELS", plugin.evaluation.evaluate)


def separable_features_have_a_high_top1(plugin: EvaluationPlugin) -> None:
    with TemporaryDirectory() as folder:
        metrics, _ = plugin.run(Path(folder))
    for metric in ("top1_val", "top1_test"):
        words = (
            f"{metric} is {metrics[metric]:.1f} % of images whose class is their colour, with {dict(plugin.settings)}"
        )
        remedy = f"it should be above {HIGH}: give CHECK knobs that suit 160 images, or look at labels and splits"
        require(metrics[metric] > HIGH, f"{words}; {remedy}", plugin.evaluation.evaluate)


def meaningless_labels_have_a_top1_at_chance(plugin: EvaluationPlugin) -> None:
    with TemporaryDirectory() as folder:
        metrics, _ = plugin.run(Path(folder), labels="meaningless")
    words = f"top1_test is {metrics['top1_test']:.1f} % of labels that say nothing"
    remedy = "25 is chance: fit and choose on splits.train and splits.val alone, and score in percent"
    low, high = CHANCE
    require(low < metrics["top1_test"] < high, f"{words}; {remedy}", plugin.evaluation.evaluate)


def the_best_epoch_is_the_best_on_validation(plugin: EvaluationPlugin) -> None:
    with TemporaryDirectory() as folder:  # at chance, the best is seldom the last
        metrics, reports = plugin.run(Path(folder), labels="meaningless")
    best, step = max(reports, key=lambda report: report[0]["top1_val"])  # the first of equals
    found = (metrics["top1_best_val"], metrics["top1_best_test"])
    expected = (best["top1_val"], best["top1_test"])
    words = f"top1_best_val and top1_best_test are {found}, but epoch {step}, the best on validation, had {expected}"
    require(found == expected, f"{words}; take the scores of that epoch", plugin.evaluation.evaluate)


def a_resumed_run_gives_the_same_metrics(plugin: EvaluationPlugin) -> None:
    at = plugin.evaluation.evaluate
    with TemporaryDirectory() as folder:
        expected, reports = plugin.run(Path(folder) / "unbroken")
        stop_at = (len(reports) + 1) // 2
        plugin.run(Path(folder) / "broken", stop_at=stop_at)
        metrics, resumed = plugin.run(Path(folder) / "broken")
    words = f"stopped at report {stop_at} and run again it returns {metrics}, unbroken {expected}"
    remedy = "draw by stage.generator(...), and train by training.loop.fit, which saves and resumes"
    require(metrics == expected, f"{words}; {remedy}", at)
    if len(reports) > 1:
        words = f"after a stop at report {stop_at} it goes on with report {resumed[0][1]}"
        require(resumed[0][1] == stop_at + 1, f"{words}; {remedy}", at)


_KNOBS, _METRICS = its_knobs_have_types_and_defaults_and_texts, its_declarations_take_their_arguments
_FOLLOW, _RUN = its_declarations_follow_from_its_settings, it_reports_and_returns_the_metrics_that_it_declares
DECLARATION_CHECKS = (
    Check(_KNOBS),
    Check(_METRICS),
    Check(_FOLLOW, (_KNOBS, _METRICS)),
)
RUN_CHECKS = (
    Check(_RUN, (_FOLLOW,)),
    Check(it_reports_the_metrics_of_pruners_after_each_epoch, (_RUN,)),
    Check(a_resumed_run_gives_the_same_metrics, (_RUN,)),
)
LABEL_FREE_CHECKS = (Check(it_runs_on_images_without_labels, (_RUN,)),)
TOP1_CHECKS = (
    Check(separable_features_have_a_high_top1, (_RUN,)),
    Check(meaningless_labels_have_a_top1_at_chance, (separable_features_have_a_high_top1,)),
)
BEST_CHECKS = (Check(the_best_epoch_is_the_best_on_validation, (_RUN,)),)


def checks_of(plugin: EvaluationPlugin) -> tuple[Check, ...]:
    """All checks; those of top-1 where it declares such a metric, and one that runs it where its data can be made."""
    if plugin.needs is not None:
        return DECLARATION_CHECKS + RUN_CHECKS[:1]
    without_labels = () if plugin.evaluation.needs_labels else LABEL_FREE_CHECKS
    try:
        declared = plugin.declared()
    except (AttributeError, ContractError):  # a check says so
        return DECLARATION_CHECKS + RUN_CHECKS + without_labels
    top1 = TOP1_CHECKS if {"top1_val", "top1_test"} <= declared else ()
    best = BEST_CHECKS if {"top1_best_val", "top1_val"} <= declared else ()
    return DECLARATION_CHECKS + RUN_CHECKS + without_labels + top1 + best


EVALUATIONS = Contract(load, checks_of)


def _bare(metrics: Iterable[str]) -> set[str]:
    return {metric.split("/")[-1] for metric in metrics}
