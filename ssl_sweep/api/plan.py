"""What a sweep would cost, before it runs; and the reading of its spec from a file or a dict."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_sweep.data.enlarged import sizes_of, usual_sizes
from ssl_sweep.data.images import AbsentDataError, DataError
from ssl_sweep.data.splits import data_of
from ssl_sweep.data.summary import Summary, summarize
from ssl_sweep.knobs.problems import Problem, SpecError
from ssl_sweep.plugins import catalog
from ssl_sweep.spec.file import check_spec, load_spec
from ssl_sweep.spec.labels import check_labels, evaluated_sources, unmeasured
from ssl_sweep.spec.launch import derived_sizes, launch_error, pretrained_on, size_findings, size_warnings
from ssl_sweep.spec.plan import make_plan
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.views import enlarged_crops
from ssl_sweep.spec.weights import check_weights, encoders_with, subset_origins
from ssl_sweep.storage.bucket import BucketError
from ssl_sweep.storage.layout import StorageError
from ssl_sweep.storage.open import find_storage

Source = str | Path | Mapping[str, Any]
NO_SIZES = torch.empty(0, 2, dtype=torch.int64)


def plan(
    spec: Source,
    overrides: Sequence[str] = (),
    *,
    storage: str | Path | None = None,
    address: str | None = None,
    plugins: str | Path | None = None,
) -> dict[str, Any]:
    """Count the trials, pretrainings and epochs of a sweep, and check whether a trial fits and the data is right.

    The arguments are those of `run`. Nothing runs; where the data is not here, `data.problem` in the answer says so.

    Raises:
        SpecError: the spec is invalid, or does not fit its data.
        DataError: the data is here and damaged, or a key of `data` does not fit it.
        WeightsError: a file of weights cannot be read, or does not fit its encoder; or an earlier encoder does not.
    """
    catalog.use(plugins)
    checked = read_spec(spec, overrides)
    nodes = None
    if address or os.environ.get("RAY_ADDRESS"):
        from ssl_sweep.cluster.run import cluster_nodes  # Ray takes seconds to import

        nodes = cluster_nodes(address)
    file = checked.name if isinstance(spec, Mapping) else str(spec)
    sized = make_plan(checked, nodes)
    warnings = {
        "warnings": [
            *sized.warnings,
            *check_weights(checked),
            *_origin_notes(checked, storage),
            *_evaluation_notes(checked),
        ]
    }
    data, image_sizes = _data_summary(checked, file)
    enlarged = enlarged_crops(checked, image_sizes) if len(image_sizes) else {}
    sizes = derived_sizes(checked, data["train_images"]) if "train_images" in data else {}
    return {"name": checked.name, **asdict(sized), **warnings, "data": data, "sizes": sizes, "enlarged": enlarged}


def read_spec(spec: Source, overrides: Sequence[str]) -> SweepSpec:
    """A spec from a YAML file or from data. Raises SpecError."""
    overrides = (overrides,) if isinstance(overrides, str) else overrides
    if not isinstance(spec, str | os.PathLike | Mapping):
        raise _not_a("spec", spec, "give the path of a YAML file, or its content as a dict")
    if not isinstance(overrides, Sequence) or not all(isinstance(override, str) for override in overrides):
        raise _not_a("overrides", overrides, 'give a list of texts, such as ["search.seeds=3"]')
    return check_spec(spec, overrides) if isinstance(spec, Mapping) else load_spec(spec, overrides)


def _not_a(argument: str, value: object, remedy: str) -> SpecError:
    return SpecError([Problem(argument, None, "", value, f"a {type(value).__name__} is not understood", remedy)])


def _origin_notes(spec: SweepSpec, place: str | Path | None) -> list[str]:
    """The earlier encoders that trials begin from; a sweep may be planned where there is no storage."""
    if next(encoders_with(spec, "from"), None) is None and not subset_origins(spec):
        return []
    from ssl_sweep.ledger.database import LedgerUnreachableError, has_ledger  # Optuna takes a second to import
    from ssl_sweep.sweep.origins import check_origins

    try:
        storage = find_storage(place)
        if has_ledger(storage.ledger_url):
            return check_origins(spec, storage)
        problem = f"no sweeps in {storage.place}; --storage names another folder"
    except (StorageError, BucketError, LedgerUnreachableError) as error:
        problem = str(error)
    key = "data.subset.from" if next(encoders_with(spec, "from"), None) is None else "encoder.from"
    return [f"{key}: checked when the sweep is run, not here: {problem}"]


def _evaluation_notes(spec: SweepSpec) -> list[str]:
    """A note where images that an evaluation has of its own are not here; DataError if they are and are damaged."""
    try:
        for name in spec.evaluate:
            list(evaluated_sources(spec, name))  # opens them
    except AbsentDataError as error:
        return [f"run would refuse this, as images of an evaluation are not here: {error}"]
    return []


def _data_summary(spec: SweepSpec, file: str) -> tuple[dict[str, Any], Tensor]:
    """The sizes of the splits, and of some images (N, 2); or a `problem`: a sweep may be planned where its data is not.

    Raises:
        DataError: the data is here and damaged, or does not fit the spec.
        SpecError: the spec does not fit the number of images; it names the file.
    """
    try:
        summary = summarize(data_of(spec.data), root=spec.root)
    except AbsentDataError as error:
        side = spec.data["short_side"]
        return {"problem": str(error)}, usual_sizes(side) if side else NO_SIZES
    except OSError as error:
        raise DataError(f"data.source: {error}") from error
    if findings := size_findings(spec, summary.train_images):
        raise launch_error(file, findings)
    check_labels(spec, summary)
    notes = [*summary.warnings, *size_warnings(spec, summary.train_images)]
    note = unmeasured(spec, summary)
    seen = pretrained_on(spec, summary.train_images)
    counts = {**_counts(summary), "pretrained_on": seen, "warnings": [*notes, *([note] if note else [])]}
    return counts, sizes_of(summary.source)


def _counts(summary: Summary) -> dict[str, Any]:
    """The summary without the source that it is of, which is no JSON."""
    counts = {each.name: getattr(summary, each.name) for each in fields(summary) if each.name != "source"}
    return {**counts, "labelled": summary.labelled and _counts(summary.labelled)}
