"""Resolves `encoder.from` and `data.subset.from`: an earlier sweep's encoder becomes a file of this sweep."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from ssl_sweep.knobs.methods import pretrains
from ssl_sweep.knobs.pins import check_pins, plugin_pin
from ssl_sweep.knobs.problems import did_you_mean
from ssl_sweep.ledger.open import load_ledger, sweep_names
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.models.encoders import build_encoder, without_weights
from ssl_sweep.models.weights import NET, WeightsError, digest
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.weights import encoders_with, subset_origins
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import NoSuchTrial, best_trial, select_trial
from ssl_sweep.trial.export import Trained, read_record, read_trial
from ssl_sweep.trial.run import encoder_path, is_origin, origin_file
from ssl_sweep.trial.subset import describe_settings, described_name
from ssl_sweep.trialdir.atomic import write_bytes
from ssl_sweep.trialdir.record import RECORD

ID_CHARS = 8  # of a trial's id in messages


def check_origins(spec: SweepSpec, storage: Storage) -> list[str]:
    """Check each earlier encoder that a trial can begin from, without reading its weights; returns a note on each.

    Raises:
        WeightsError: there is no such sweep, trial or encoder, or it is not that of the spec.
        ExportError: its record cannot be read.
        PinError, PluginError: it is a plugin's that has changed since, or is not at hand.
    """
    notes: dict[str, None] = {}
    for use in _uses(spec):
        notes[_earlier(spec, storage, use)[1]] = None
    return list(notes)


def origin_pins(
    spec: SweepSpec, storage: Storage, pinned: Mapping[str, str], say: Callable[[str], object] = lambda _: None
) -> dict[str, str]:
    """The identity of each earlier encoder that a trial can begin from, by its use; each is a file of this sweep then.

    What is pinned stays: an earlier sweep may be extended, so that another trial is its best, or be cleaned.
    `say` gets a message about each trial whose encoder is taken.

    Raises:
        CheckpointError: an encoder is damaged; else as `check_origins`.
    """
    pins: dict[str, str] = {}
    for use in _uses(spec):
        known = pins.get(use.pin) or pinned.get(use.pin)
        if known is None or not _is_kept(spec, storage, known):
            folder, note = _earlier(spec, storage, use)
            storage.fetch(folder / "stages.json", encoder_path(folder))
            known = _keep(spec, storage, read_trial(folder), described=use.settings is None)
            say(note)
        pins[use.pin] = known
        if use.settings is None:  # an encoder of its own, which may be a plugin's
            pins |= plugin_pin("subset encoder", described_name(origin_file(storage.sweep(spec.name), known)))
    return pins


class _Use(NamedTuple):
    """A key that names an earlier encoder: for trials to begin from, or for its features to choose images."""

    key: str
    origin: str
    settings: Mapping[str, Any] | None = None  # of the encoder that begins from it

    @property
    def pin(self) -> str:
        return f"{self.key.removeprefix('data.')} {self.origin}"


def _uses(spec: SweepSpec) -> Iterator[_Use]:
    yield from (_Use("encoder.from", settings["from"], settings) for settings in encoders_with(spec, "from"))
    yield from (_Use("data.subset.from", origin) for origin in subset_origins(spec))


def _is_kept(spec: SweepSpec, storage: Storage, identity: str) -> bool:
    path = origin_file(storage.sweep(spec.name), identity)
    storage.fetch(path)
    return is_origin(path, identity)


def _earlier(spec: SweepSpec, storage: Storage, use: _Use) -> tuple[Path, str]:
    """The folder of the trial that `SWEEP/TRIAL` names, or of the best one of `SWEEP`, and a note on it."""
    try:
        ledger, chosen = _find(spec, storage, *use.origin.split("/"))
        trial, words = select_trial(ledger, storage, chosen)
        folder = storage.trial(ledger.spec.name, trial.trial_id)
        if not storage.presence(folder)(encoder_path(folder)):
            why = "it has not pretrained yet, its method does not, or `ssl-sweep clean` removed it"
            remedy = f"name another: `ssl-sweep status {ledger.spec.name}` lists them"
            raise WeightsError(f"trial {trial.trial_id[:ID_CHARS]} ({trial.state}) has no encoder: {why}; {remedy}")
        storage.fetch(folder / RECORD)
        config = read_record(folder).config
        check_pins(config, ("encoder",))
        if use.settings is not None:
            _check_alike(use.settings, config, spec)
    except (WeightsError, NoSuchTrial) as error:
        raise WeightsError(f"{use.key}: {use.origin!r}: {error}") from error
    return folder, f"{use.key}: {use.origin}: trial {trial.trial_id[:ID_CHARS]}, {words}"


def _find(spec: SweepSpec, storage: Storage, name: str, trial: str | None = None) -> tuple[LedgerReader, str]:
    """The ledger of a sweep, and the start of the named trial's id or the id of the best one."""
    if name == spec.name:
        raise WeightsError("it is this sweep itself; name an earlier one")
    if name not in (names := sweep_names(storage.ledger_url)):
        where = "with --storage, name the folder or bucket that has it"
        remedy = did_you_mean(name, names, f"`ssl-sweep list` lists them; {where}" if names else where)
        raise WeightsError(f"no sweep named {name!r} in {storage.place}; {remedy}")
    ledger = load_ledger(storage.ledger_url, name)
    return ledger, trial or _best(ledger, storage)


def _best(ledger: LedgerReader, storage: Storage) -> str:
    """The id of a finished sweep's best trial: while trials are left, another one may become the best."""
    name, methods = ledger.spec.name, [each for kind, each in ledger.spec.names if kind == "methods"]
    if not any(map(pretrains, methods)):
        raise WeightsError(f"its method {', '.join(methods)} does not pretrain; name a sweep that has encoders")
    best = best_trial(ledger, storage)
    if left := ledger.total - sum(trial.ended for trial in ledger.trials):
        so_far = f"name the best trial so far, {name}/{best.trial_id[:ID_CHARS]}, or " if best is not None else ""
        remedy = f"{so_far}let it end first: ssl-sweep resume {name}"
        raise WeightsError(f"{left} of its {ledger.total} trials have not ended; {remedy}")
    if best is None:
        remedy = f"name one, {name}/TRIAL, see `ssl-sweep status {name}`, or run it again: ssl-sweep resume {name}"
        raise WeightsError(f"no complete trial has an encoder; {remedy}")
    return best.trial_id


def _check_alike(settings: Mapping[str, Any], config: Mapping[str, Any], spec: SweepSpec) -> None:
    """Refuse other settings than those of the earlier trial: its weights belong to them, and so does the input."""
    wanted, there = without_weights(settings), without_weights(config["encoder"])
    size, here = config["data"]["image_size"], spec.data["image_size"]
    differing = {key for key in wanted.keys() | there if wanted.get(key) != there.get(key)}
    if differing:
        shown = ", ".join(f"{key} is {there.get(key)} there, and {wanted.get(key)} here" for key in sorted(differing))
        section = ", ".join(f"{key}: {value}" for key, value in there.items() if value is not None)
        remedy = f"write `encoder: {{{section}}}`"
    elif size != here and _shapes(there, size) != _shapes(there, here):
        shown, remedy = f"data.image_size is {size} there", f"set data.image_size: {size}"
    else:
        return
    raise WeightsError(f"{shown}; {remedy}")


def _shapes(settings: Mapping[str, Any], image_size: int) -> dict[str, torch.Size]:
    """The shapes of an encoder's weights for images of a size."""
    with torch.device("meta"):
        encoder = build_encoder(settings, image_size)
    return {key: value.shape for key, value in encoder.state_dict().items()}


def _keep(spec: SweepSpec, storage: Storage, trained: Trained, *, described: bool) -> str:
    """Write the weights to the sweep's folder, under their hash; returns their identity.

    described: with the settings that build the encoder, which those of the spec need not be.
    """
    metadata = describe_settings(trained.settings, trained.encoder.image_size) if described else None
    tensors = {key.removeprefix(NET): value.contiguous() for key, value in trained.encoder.state_dict().items()}
    folder = storage.sweep(spec.name)
    partial = folder / "weights" / "new.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(partial, safetensors.torch.save(tensors, metadata))
    identity = digest(partial)
    path = origin_file(folder, identity)
    partial.replace(path)
    storage.send(path)
    return identity
