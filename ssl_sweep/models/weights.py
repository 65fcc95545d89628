"""Pretrained weights of an encoder: a safetensors file with the key names of the original architecture.

`ssl-sweep export` writes such files, and timm and torchvision publish them. Pickles are never read.
"""

import hashlib
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ssl_sweep.errors import UserError
from ssl_sweep.models.encoder import Encoder
from ssl_sweep.models.resnet import ResNetEncoder

NET = "net."  # prefix of every key of an encoder's state
SUFFIX = ".safetensors"
COUNTERS = ".num_batches_tracked"  # of batch normalisation: older files lack them, and they change nothing
HEADS = ("aux", "AuxLogits", "classifier", "fc", "head", "heads", "last_linear")  # starts of keys of classifiers
FLOATS = ("F64", "F32", "F16", "BF16")  # in a file's header; narrower ones are quantised, with scales elsewhere
SHOWN = 3  # keys in a message
CONVERSION = (  # argparse.Namespace: many checkpoints hold the arguments of their script; it is data alone
    "import argparse, sys, torch, safetensors.torch as s; "
    "sys.excepthook = lambda kind, error, _: print(sys.argv[1], "
    "'is damaged, or a whole model: where its code is, save model.state_dict(), and convert that' "
    "if kind.__name__ == 'UnpicklingError' else error, sep=': ', file=sys.stderr); "
    "torch.serialization.add_safe_globals([argparse.Namespace]); "
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d if isinstance(d, dict) else {}; "
    "parts = [*(d.get(k) for k in ('state_dict', 'model', 'teacher', 'student', 'encoder')), d]; "
    "found = [{k: v for k, v in p.items() if torch.is_tensor(v)} for p in parts if isinstance(p, dict)]; "
    "w = next(filter(None, found), None) or sys.exit(sys.argv[1] + ': has no weights; write the state_dict() of the "
    "encoder with torch.save; the keys here are: ' + ', '.join(map(str, d))); "
    "s.save_file({k.removeprefix('module.'): v.clone().contiguous() for k, v in w.items()}, sys.argv[2])"
)


class WeightsError(UserError, ValueError):
    """A file of weights cannot be read, or does not fit its encoder."""


def conversion(file: str) -> str:
    """The command that writes a checkpoint of torch as safetensors; it runs no code of the checkpoint."""
    return f'python -c "{CONVERSION}" {shlex.quote(file)} {shlex.quote(str(Path(file).with_suffix(SUFFIX)))}'


def digest(path: Path) -> str:
    """The identity of a file's contents.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); make it readable, or move it away") from error


def unused_keys(path: Path, encoder: Encoder, name: str) -> list[str]:
    """Check that a file has all weights of an encoder, and return its other keys: those of a classifier, say.

    Only the file's header is read, and the encoder may be on the meta device.

    Raises:
        WeightsError: it cannot be read, a weight is missing, quantised or of another shape, or it is of a larger model.
    """
    shapes, dtypes, metadata = _header(path)
    state = {key.removeprefix(NET): value for key, value in encoder.state_dict().items()}
    own = {key: tuple(value.shape) for key, value in state.items()}
    if not own:
        raise WeightsError(f"{path}: {name} has no weights; leave encoder.weights out")
    written = metadata.get("encoder_settings")
    hint = f"; it was written for {written} at image_size {metadata.get('image_size')}" if written else ""
    if missing := [key for key in own if key not in shapes and not key.endswith(COUNTERS)]:
        has = f"; it has {_listed(shapes)}" if len(missing) == len(own) else ""
        remedy = hint or f"; use a file of {name} with the key names of its library"
        raise WeightsError(f"{path}: lacks {_listed(missing)} of {name}{has}{remedy}")
    for key, shape in own.items():
        if key in shapes and shapes[key] != shape:
            remedy = (
                _other_stem(encoder, shapes[key], shape)
                or hint
                or "; use the knobs of the encoder, and the data.image_size, that the file was made with"
            )
            raise WeightsError(f"{path}: {key} is {shapes[key]} there, and {shape} in {name}{remedy}")
        if key in shapes and state[key].is_floating_point() and dtypes[key] not in FLOATS:
            remedy = f"use a file of {', '.join(FLOATS)} that is not quantised"
            raise WeightsError(f"{path}: {key} is {dtypes[key]} there; {remedy}")
    others = [key for key in shapes if key not in own]
    parts = {key.partition(".")[0] for key in own}
    if larger := [key for key in others if (part := key.partition(".")[0]) in parts and part not in HEADS]:
        raise WeightsError(f"{path}: is of another model: it has {_listed(larger)}, which {name} lacks{hint}")
    return others


def load_weights(encoder: Encoder, path: Path, name: str, pinned: str | None) -> list[str]:
    """Give an encoder the weights of a file; returns the keys that are not used.

    pinned: the file's identity when the sweep began; None: any.

    Raises:
        WeightsError: as `unused_keys`, or the file has changed, or a weight is infinite or no number.
    """
    if pinned is not None and (found := digest(path)) != pinned:
        remedy = "put the old file back, or run a new sweep with the new one"
        raise WeightsError(f"{path}: has changed since the sweep began: it is {found}, and was {pinned}; {remedy}")
    others = unused_keys(path, encoder, name)
    with safe_open(path, "pt") as file:
        state = {NET + key: file.get_tensor(key) for key in file.keys() if key not in others}  # noqa: SIM118 - no dict
    if broken := [key.removeprefix(NET) for key, value in state.items() if not value.isfinite().all()]:
        raise WeightsError(f"{path}: {_listed(broken)}: has values that are infinite or no numbers; use another file")
    encoder.load_state_dict(state, strict=False)  # only counters may be missing
    encoder.begun = True
    return others


def _header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str], Mapping[str, str]]:
    """The shape and the data type of each key, and the metadata."""
    if not path.is_file():
        hint = "give an absolute path, or one relative to the spec file or SSL_SWEEP_DATA"
        raise WeightsError(f"{path.absolute()}: there is no such file; {hint}")
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - no dict
            shapes = {key: tuple(tensor.get_shape()) for key, tensor in slices.items()}
            dtypes = {key: tensor.get_dtype() for key, tensor in slices.items()}
            return shapes, dtypes, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is no safetensors file ({error}); write it anew, or fetch it again") from error


def _other_stem(encoder: Encoder, there: tuple[int, ...], own: tuple[int, ...]) -> str:
    """The knob to set where only the side of the first kernel differs, of a ResNet whose stem can be chosen."""
    is_stem = isinstance(encoder, ResNetEncoder) and there[:2] == own[:2] and {there[2:], own[2:]} == {(3, 3), (7, 7)}
    return f"; set encoder.stem: {'imagenet' if there[2:] == (7, 7) else 'small'}" if is_stem else ""


def _listed(keys: Collection[str]) -> str:
    shown = ", ".join(list(keys)[:SHOWN])
    return shown if len(keys) <= SHOWN else f"{shown} and {len(keys) - SHOWN:,} more"
