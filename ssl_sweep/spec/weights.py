"""Checks the files of weights that a spec's encoders begin from, before anything runs."""

import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ssl_sweep.data.subset import origin_of
from ssl_sweep.knobs.problems import Finding
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.weights import WeightsError, digest, unused_keys
from ssl_sweep.spec.choices import MAX_COMBINED, combined, searched
from ssl_sweep.spec.launch import placed
from ssl_sweep.spec.sections import CASE, SUBSET
from ssl_sweep.spec.sweep import SweepSpec, resolve

SHOWN = 5  # keys in a note


def weights_findings(spec: SweepSpec) -> list[Finding]:
    """The files that cannot be used, each at the key that names it. Only their headers are read."""
    findings = []
    for choice, config in _choices_with(spec, "weights"):
        try:
            _unused(spec, config["encoder"])
        except WeightsError as error:
            findings.append(placed(spec, choice, config, "encoder", f"encoder.weights: {error}"))
    return findings


def check_weights(spec: SweepSpec) -> list[str]:
    """Check that each file exists and has the weights of its encoder; returns a note for each with other keys besides.

    Only the files' headers are read.

    Raises:
        WeightsError: one cannot be used.
    """
    notes = {}
    for settings in encoders_with(spec, "weights"):
        file, name = settings["weights"], settings["name"]
        try:
            unused = _unused(spec, settings)
        except WeightsError as error:
            raise WeightsError(f"encoder.weights: {file!r}: {error}") from error
        if unused:
            more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
            notes[file, name] = f"encoder.weights: {file}: not used by {name}: {', '.join(unused[:SHOWN])}{more}"
    return list(notes.values())


def _unused(spec: SweepSpec, settings: Mapping[str, Any]) -> list[str]:
    """The keys of an encoder's file that it does not use. Raises WeightsError."""
    with torch.device("meta"):
        encoder = build_encoder(settings, spec.data["image_size"])
    return unused_keys(path_of(spec, settings["weights"]), encoder, settings["name"])


def weight_pins(spec: SweepSpec) -> dict[str, str]:
    """The identity of each file, by its use. Raises WeightsError."""
    files = sorted({settings["weights"] for settings in encoders_with(spec, "weights")})
    return {f"encoder.weights {file}": digest(path_of(spec, file)) for file in files}


def path_of(spec: SweepSpec, file: str) -> Path:
    """The place of a file of weights; a relative one is below the folder of the data."""
    return spec.root / Path(os.path.expanduser(file))


def encoders_with(spec: SweepSpec, knob: str) -> Iterator[dict[str, Any]]:
    """The different encoders with a value of `weights` or `from` that trials can have."""
    return (config["encoder"] for _, config in _choices_with(spec, knob))


def subset_origins(spec: SweepSpec) -> list[str]:
    """The earlier sweeps or trials whose encoders choose the images of trials."""
    if spec.data["subset"] is None:
        return []
    knobs = [path for path in searched(spec.search) if path == CASE or path.startswith(f"{SUBSET}.")]
    choices = islice(combined(spec.search, knobs), MAX_COMBINED)
    origins = (origin_of(resolve(spec, choice, 0)) for choice in choices)
    return list(dict.fromkeys(origin for origin in origins if origin is not None))


def _choices_with(spec: SweepSpec, knob: str) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """The choices, with their configs, of these encoders."""
    if f'"{knob}"' not in json.dumps([spec.encoder, spec.model_dump(mode="json")["search"]]):
        return
    knobs = [path for path in searched(spec.search) if path == CASE or path.partition(".")[0] == "encoder"]
    seen = set()
    for choice in islice(combined(spec.search, knobs), MAX_COMBINED):
        config = resolve(spec, choice, 0)
        settings = config["encoder"]
        if settings.get(knob) and (text := json.dumps(settings)) not in seen:
            seen.add(text)
            yield choice, config
