"""Refuses a sweep that needs labels which its images lack, before anything runs."""

from collections.abc import Iterator

from ssl_sweep.data.columns import LABEL_COLUMNS
from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Source
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import LABELS_REMEDY, NAMES, data_of
from ssl_sweep.data.summary import Summary, require_labels
from ssl_sweep.knobs import methods
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.knobs.objective import parse_objectives
from ssl_sweep.spec.choices import to_construct
from ssl_sweep.spec.pins import settings_of
from ssl_sweep.spec.sweep import SweepSpec, resolve

VOTES = "pretrain/knn_top1_val"  # health measures it by labels


def check_labels(spec: SweepSpec, summary: Summary) -> None:
    """Check evaluations, objectives and methods against the labels that there are.

    Raises:
        DataError: with every problem, a line each.
    """
    if problems := [*_evaluations(spec, summary), *_objectives(spec, summary), *_methods(spec, summary)]:
        raise DataError("\n".join(problems))


def evaluated_sources(spec: SweepSpec, name: str) -> Iterator[Source]:
    """The sources that an evaluation opens with the settings of any trial.

    Raises:
        AbsentDataError: a source is not here.
        DataError: a source is damaged, or has no labels.
    """
    evaluation, known = load_evaluation(name), set()
    for settings in settings_of(spec, name):
        texts = repr([value for value in settings.values() if not isinstance(value, int | float | None)])
        if texts in known:  # another number names no other data
            continue
        known.add(texts)
        own = evaluation.check_data(settings, spec.root)
        if isinstance(own, Source):
            yield own
        for source in evaluation.data_sources(settings):
            try:
                opened = open_source(source, root=spec.root, split_seed=data_of(spec.data).test_seed)
                require_labels(opened)
            except DataError as error:
                raise type(error)(f"evaluate.{name}: {error}") from None
            yield opened


def unmeasured(spec: SweepSpec, summary: Summary) -> str | None:
    """A note that health lacks the labels for its k-NN; None if it has them, or measures nothing."""
    if not spec.health["every"] or not _lacks_votes(summary):
        return None
    return f"health measures no knn_top1_val, which needs labels: {_lack(spec, summary)}"


def _evaluations(spec: SweepSpec, summary: Summary) -> Iterator[str]:
    if (summary.labelled or summary).lacking:
        why, remedy = _lack(spec, summary), _remedy(summary)
        for name in spec.evaluate:
            if load_evaluation(name).needs_labels:
                yield f"evaluate.{name}: needs labels, and {why}; {remedy}, or use label_free"


def _objectives(spec: SweepSpec, summary: Summary) -> Iterator[str]:
    judged = [("objective", objective) for objective in spec.search.objectives]
    if spec.search.prunes_by == "epoch":
        judged += [("prune_on", objective) for objective in parse_objectives(spec.search.prune_on)]
    for key, objective in judged:
        if objective.metric == VOTES and spec.health["every"] and _lacks_votes(summary):
            remedy = f"{_remedy(summary)}, or use another metric, such as minimize pretrain/loss"
            yield f"search.{key}: {str(objective)!r}: needs labels, and {_lack(spec, summary)}; {remedy}"


def _methods(spec: SweepSpec, summary: Summary) -> Iterator[str]:
    if "train" in summary.lacking:
        source, remedy = spec.data["source"], "pretrain on images with labels, or change its knobs"
        chosen = [resolve(spec, choice, 0)["method"] for choice, _, _ in to_construct(spec.search)] or [spec.method]
        for name in sorted({method["name"] for method in chosen if methods.needs_labels(method["name"], method)}):
            yield f"method: {name} reads labels with these knobs, and no image of {source!r} has one; {remedy}"


def _lacks_votes(summary: Summary) -> bool:
    return bool({"train", "val"} & set((summary.labelled or summary).lacking))


def _remedy(summary: Summary) -> str:
    if summary.lacking == ("test",):  # the hub's sets may keep the labels of test back, and have a validation split
        return f"name a split with labels, as data.splits: {{test: validation}}, or {LABELS_REMEDY}"
    return LABELS_REMEDY


def _lack(spec: SweepSpec, summary: Summary) -> str:
    """`no image of 'imagefolder:photos' has one`, or which of its splits has none."""
    lacking = (summary.labelled or summary).lacking
    source = spec.data["labelled"] or spec.data["source"]
    if len(lacking) < len(NAMES):
        return f"no {' and '.join(NAMES[split] for split in lacking)} image of {source!r} has one"
    columns = f" (in a column {' or '.join(LABEL_COLUMNS)})" if source.startswith(("parquet:", "arrow:")) else ""
    return f"no image of {source!r} has one{columns}"
