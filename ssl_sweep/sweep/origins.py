"""Resolves `encoder.from`: the encoder of an earlier sweep of the storage becomes a file of this sweep."""

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.models.encoders import build_encoder, without_weights
from ssl_sweep.models.weights import NET, WeightsError, digest
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.weights import encoders_with
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import select_trial
from ssl_sweep.trial.export import Trained, read_trial
from ssl_sweep.trial.run import is_origin, origin_file
from ssl_sweep.trialdir.atomic import write_bytes
from ssl_sweep.trialdir.record import RECORD


def origin_pins(spec: SweepSpec, storage: Storage, pinned: Mapping[str, str]) -> dict[str, str]:
    """The identity of each earlier encoder that a trial can begin from, by its use; each is a file of this sweep then.

    What is pinned stays: an earlier sweep may be extended, so that another trial is its best, or be cleaned.

    Raises:
        WeightsError: an encoder is not that of the spec.
        LedgerError, NoSuchTrial, ExportError: there is no such sweep, trial or encoder.
    """
    pins: dict[str, str] = {}
    for settings in encoders_with(spec, "from"):
        pin = f"encoder.from {settings['from']}"
        known = pins.get(pin) or pinned.get(pin)
        if known is not None and _is_kept(spec, storage, known):
            pins[pin] = known
            continue
        trained = _earlier(spec, storage, settings["from"])
        _check_alike(settings, trained, spec)
        pins[pin] = _keep(spec, storage, trained)
    return pins


def _is_kept(spec: SweepSpec, storage: Storage, identity: str) -> bool:
    path = origin_file(storage.sweep(spec.name), identity)
    storage.fetch(path)
    return is_origin(path, identity)


def _earlier(spec: SweepSpec, storage: Storage, origin: str) -> Trained:
    """The encoder of `SWEEP/TRIAL`, or of the best trial of `SWEEP`."""
    name, _, trial = origin.partition("/")
    if name == spec.name:
        raise WeightsError(f"encoder.from: {origin!r} is this sweep itself; name an earlier one")
    chosen, _ = select_trial(load_ledger(storage.ledger_url, name), storage, trial or None)
    folder = storage.trial(name, chosen.trial_id)
    storage.fetch(*(folder / file for file in (RECORD, "stages.json", "encoder.pt")))
    return read_trial(folder)


def _check_alike(settings: Mapping[str, Any], trained: Trained, spec: SweepSpec) -> None:
    """Refuse other settings than those of the earlier trial: its weights belong to them, and so does the input."""
    wanted, there = without_weights(settings), trained.settings
    size = trained.encoder.image_size
    differing = {key for key in wanted.keys() | there if wanted.get(key) != there.get(key)}
    if differing:
        shown = ", ".join(f"{key} is {there.get(key)} there, and {wanted.get(key)} here" for key in sorted(differing))
        section = ", ".join(f"{key}: {value}" for key, value in there.items() if value is not None)
        remedy = f"write `encoder: {{{section}}}`"
    elif size != spec.data["image_size"] and _is_sized(trained, spec):
        shown, remedy = f"data.image_size is {size} there", f"set data.image_size: {size}"
    else:
        return
    raise WeightsError(f"encoder.from: {settings['from']!r}: {shown}; {remedy}")


def _is_sized(trained: Trained, spec: SweepSpec) -> bool:
    """Whether the shapes of the weights depend on the size of images."""
    with torch.device("meta"):
        other = build_encoder(trained.settings, spec.data["image_size"])
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    return shapes != {key: value.shape for key, value in trained.encoder.state_dict().items()}


def _keep(spec: SweepSpec, storage: Storage, trained: Trained) -> str:
    """Write the weights to the sweep's folder, under their hash; returns their identity."""
    tensors = {key.removeprefix(NET): value.contiguous() for key, value in trained.encoder.state_dict().items()}
    folder = storage.sweep(spec.name)
    partial = folder / "weights" / "new.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(partial, safetensors.torch.save(tensors))
    identity = digest(partial)
    path = origin_file(folder, identity)
    partial.replace(path)
    storage.send(path)
    return identity
