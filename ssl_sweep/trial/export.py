"""Export of a trial's encoder to a safetensors file, with torchvision's names of weights; and reading such a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from ssl_sweep.errors import UserError
from ssl_sweep.knobs.methods import pretrains
from ssl_sweep.knobs.pins import check_pins
from ssl_sweep.models.encoder import STATISTICS
from ssl_sweep.models.encoders import Encoder, build_encoder, without_weights
from ssl_sweep.models.library import LibraryEncoder
from ssl_sweep.models.resnet import ResNetEncoder
from ssl_sweep.models.vit import ViTEncoder
from ssl_sweep.models.weights import NET, SUFFIX
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trial.stages import FinishedStages
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.atomic import write_bytes
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.record import TrialRecord

TORCHVISION_WIDTH = 64
TORCHVISION_VITS = {("vit_base", 16): "vit_b_16", ("vit_base", 32): "vit_b_32"}


class ExportError(UserError, ValueError):
    """There is no encoder to export, or no place for it."""


@dataclass(frozen=True)
class Trained:
    """A trial's encoder, in evaluation mode on the CPU, and the trial's record."""

    encoder: Encoder
    record: TrialRecord

    @property
    def settings(self) -> dict[str, Any]:
        """The encoder's name and knobs."""
        return without_weights(self.record.config["encoder"])


def has_encoder(folder: Path) -> bool:
    """Whether the trial of this folder has pretrained an encoder."""
    return encoder_path(folder).exists()


def read_trial(folder: Path) -> Trained:
    """The encoder that a trial has pretrained.

    Raises:
        ExportError: the trial has none (yet), or another version of the package wrote it.
        CheckpointError: its file is damaged.
        PinError, PluginError: its encoder is a plugin's that has changed since, or is not at hand.
    """
    record = read_record(folder)
    state = checkpoint.load(encoder_path(folder), torch.device("cpu")) if has_encoder(folder) else None
    if state is None and FinishedStages(folder / "stages.json").key("pretrain") is not None:
        remedy = "name another trial by its id, or run these knobs in a sweep of their own"
        raise ExportError(f"{folder}: its encoder was removed (ssl-sweep clean, keep_encoders); {remedy}")
    if state is None:
        raise ExportError(f"{folder}: no encoder: {_why_none(record.config)}")
    check_pins(record.config, ("encoder",))
    encoder = _build(record.config["encoder"], record.config["data"]["image_size"], str(folder))
    return Trained(_filled(encoder, state["encoder"], str(folder)), record)


def _why_none(config: Mapping[str, Any]) -> str:
    method, file = config["method"]["name"], config["encoder"].get("weights")
    if pretrains(method):
        return "the trial has not pretrained yet; wait for it, or name another trial by its id"
    remedy = f"the weights are those of {file}" if file else "name a trial of a method that pretrains"
    return f"method {method} does not pretrain; {remedy}"


def read_record(folder: Path) -> TrialRecord:
    """A trial's record. Raises ExportError."""
    try:
        return TrialRecord.read(folder)
    except FileNotFoundError as error:
        raise ExportError(f"{folder}: no config.yaml; the trial has not started") from error
    except DamagedFileError as error:
        raise ExportError(str(error)) from error


def write(trained: Trained, path: Path, metrics: Mapping[str, float], *, force: bool = False) -> dict[str, str]:
    """Write an encoder's weights and description to `path`; returns the file's metadata.

    Args:
        trained: see `read_trial`.
        path: ends in `.safetensors`; its folder exists.
        metrics: the trial's, for the metadata.
        force: replace an existing file.

    Raises:
        ExportError: the encoder has no weights, or `path` cannot be written to.
    """
    check_target(path, force=force)
    tensors = {key.removeprefix(NET): value for key, value in trained.encoder.state_dict().items()}
    if not tensors:
        raise ExportError(f"encoder {trained.settings['name']} has no weights to export")
    metadata = describe(trained, metrics)
    write_bytes(path, safetensors.torch.save(tensors, metadata))
    return metadata


def check_target(path: Path, *, force: bool) -> None:
    """Check that `write` can write to a path. Raises ExportError."""
    if path.suffix != SUFFIX:
        raise ExportError(f"{path}: the file is written as safetensors; name it {path.stem}{SUFFIX}")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise ExportError(f"{path}: is a folder; name a file")
    if path.exists() and not force:
        raise ExportError(f"{path}: exists already; give another name, or --force to replace it")


def read(path: str | Path) -> Encoder:
    """The encoder of an exported file, in evaluation mode: images (B, 3, S, S) in [0, 1] -> features (B, D).

    Raises:
        ExportError: `write` did not write the file, or another version of the package did.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {NET + key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path}: cannot be read as safetensors ({error})") from error
    if "encoder_settings" not in metadata:
        raise ExportError(f"{path}: does not describe its encoder; it was not written by `ssl-sweep export`")
    encoder = _build(json.loads(metadata["encoder_settings"]), int(metadata["image_size"]), str(path))
    return _filled(encoder, tensors, str(path))


def describe(trained: Trained, metrics: Mapping[str, float]) -> dict[str, str]:
    """The description of an encoder for its users, as texts: safetensors' metadata takes nothing else."""
    record, config, encoder = trained.record, trained.record.config, trained.encoder
    known: dict[str, Any] = {
        "format": "pt",
        "load": how_to_load(trained),
        "input": expected_input(trained),
        "encoder": trained.settings["name"],
        "encoder_settings": trained.settings,
        "image_size": encoder.image_size,
        "feature_dim": encoder.feature_dim,
        "normalize": trained.settings.get("normalize", "none"),
        "method": config["method"]["name"],
        "data": config["data"]["source"],
        **{name: getattr(record, name) for name in ("sweep", "trial_id", "choice", "seed", "knobs")},
        "metrics": dict(metrics),
        "ssl_sweep": version("ssl-sweep"),
    }
    if isinstance(encoder, ResNetEncoder):
        known |= {"width": encoder.width, "stem": "small" if encoder.small_stem else "imagenet"}
    if isinstance(encoder, ViTEncoder):
        known |= {"patch_size": encoder.patch_size, "pool": encoder.pool}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}


def how_to_load(trained: Trained) -> str:
    """Python code that loads the file FILE, into torchvision's model if there is one."""
    name, encoder = trained.settings["name"], trained.encoder
    load = "model.load_state_dict(safetensors.torch.load_file(FILE), strict=False)  # misses only the head"
    if isinstance(encoder, LibraryEncoder):
        return f"model = {encoder.construction(encoder.image_size)}; {load}"
    if isinstance(encoder, ViTEncoder):
        return f"model = torchvision.models.{_torchvision_vit(name, encoder)}; {load}"
    if not isinstance(encoder, ResNetEncoder) or encoder.width != TORCHVISION_WIDTH:
        return "encoder = ssl_sweep.export.read(FILE)  # torchvision has no such model"
    small = "model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False); model.maxpool = torch.nn.Identity(); "
    return f"model = torchvision.models.{name}(); {small if encoder.small_stem else ''}{load}"


def expected_input(trained: Trained) -> str:
    """The images that the weights were trained on."""
    images = f"images (B, 3, {trained.encoder.image_size}, {trained.encoder.image_size}) in [0, 1]"
    normalize = trained.settings.get("normalize", "none")
    if normalize == "none":
        return f"{images}, not normalised"
    mean, std = STATISTICS[normalize]
    return f"{images}, then (x - mean) / std with mean {mean} and std {std}; ssl_sweep's encoder does this itself"


def _torchvision_vit(name: str, encoder: ViTEncoder) -> str:
    size, patch, dim = encoder.image_size, encoder.patch_size, encoder.hidden_dim
    if (name, patch) in TORCHVISION_VITS:
        return f"{TORCHVISION_VITS[name, patch]}(image_size={size})"
    return (
        f"VisionTransformer(image_size={size}, patch_size={patch}, num_layers=12, num_heads={encoder.heads}, "
        f"hidden_dim={dim}, mlp_dim={4 * dim})"
    )


def _build(settings: Mapping[str, Any], image_size: int, place: str) -> Encoder:
    try:
        return build_encoder(settings, image_size)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"this version of ssl_sweep cannot build {dict(settings)} ({error})"
        raise ExportError(f"{place}: {reason}") from error


def _filled(encoder: Encoder, state: Mapping[str, torch.Tensor], place: str) -> Encoder:
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ExportError(f"{place}: the weights are not those of its encoder ({error})") from error
    return encoder.eval()
