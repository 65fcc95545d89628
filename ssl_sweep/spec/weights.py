"""Checks the files of weights that a spec's encoders begin from, before anything runs."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.weights import WeightsError, digest, unused_keys
from ssl_sweep.spec.choices import MAX_COMBINED, combined, searched
from ssl_sweep.spec.sections import CASE
from ssl_sweep.spec.sweep import SweepSpec, resolve

SHOWN = 5  # keys in a note


def check_weights(spec: SweepSpec) -> list[str]:
    """Check that each file exists and has the weights of its encoder; returns a note for each with other keys besides.

    Only the files' headers are read.

    Raises:
        WeightsError: one cannot be used.
    """
    notes = {}
    for settings in encoders_with(spec, "weights"):
        file, name = settings["weights"], settings["name"]
        with torch.device("meta"):
            encoder = build_encoder(settings, spec.data["image_size"])
        try:
            unused = unused_keys(path_of(spec, file), encoder, name)
        except WeightsError as error:
            raise WeightsError(f"encoder.weights: {file!r}: {error}") from error
        if unused:
            more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
            notes[file, name] = f"encoder.weights: {file}: not used by {name}: {', '.join(unused[:SHOWN])}{more}"
    return list(notes.values())


def weight_pins(spec: SweepSpec) -> dict[str, str]:
    """The identity of each file, by its use. Raises WeightsError."""
    files = sorted({settings["weights"] for settings in encoders_with(spec, "weights")})
    return {f"encoder.weights {file}": digest(path_of(spec, file)) for file in files}


def path_of(spec: SweepSpec, file: str) -> Path:
    """The place of a file of weights; a relative one is below the folder of the data."""
    return spec.root / Path(file).expanduser()


def encoders_with(spec: SweepSpec, knob: str) -> Iterator[dict[str, Any]]:
    """The different encoders with a value of `weights` or `from` that trials can have."""
    if f'"{knob}"' not in json.dumps([spec.encoder, spec.model_dump(mode="json")["search"]]):
        return
    knobs = [path for path in searched(spec.search) if path == CASE or path.partition(".")[0] == "encoder"]
    seen = set()
    for choice in islice(combined(spec.search, knobs), MAX_COMBINED):
        settings = resolve(spec, choice, 0)["encoder"]
        if settings.get(knob) and (text := json.dumps(settings)) not in seen:
            seen.add(text)
            yield settings
