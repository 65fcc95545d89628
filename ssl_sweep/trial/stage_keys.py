"""The keys under which stages are finished and shared: hashes of everything that can change the results."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from ssl_sweep.data.eval_crop import eval_crop_of, plain_crop
from ssl_sweep.data.subset import subset_of
from ssl_sweep.knobs.earlier import without_earlier
from ssl_sweep.models.encoders import WEIGHTS
from ssl_sweep.training.health import health_of
from ssl_sweep.training.loop import Precision

STAGE_VERSION = 2  # raise it when the same config gives another result: finished stages then run again
# keys of `data` that older keys of stages lack: they count where they are set
LATER_DATA = ("splits", "labelled", "subset")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """`auto` is bf16 if the hardware multiplies in it, else fp32."""
    if wanted == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    return "bf16" if wanted == "bf16" else "fp32"


def stage_key(config: Mapping[str, Any], stage: str, precision: Precision, workers: int = 1) -> str:
    """Hash of everything that can change a stage's result. An evaluation's key covers its pretraining's settings.

    It contains the number of workers only if each normalizes by statistics of its own images, and never the data's
    folder: a sweep may move with its data.
    """
    used = {name: config[name] for name in ("encoder", "method", "views", "pretrain", "seed")}
    # older keys lack the knobs of weights
    encoder = {name: value for name, value in config["encoder"].items() if name not in WEIGHTS or value}
    used["encoder"] = without_earlier(f"encoder.{encoder['name']}", encoder)
    used["method"] = without_earlier(f"method.{config['method']['name']}", config["method"])
    # `sync_batchnorm` matters only with several workers, see below
    pretrain = {name: value for name, value in config["pretrain"].items() if name != "sync_batchnorm"}
    used["pretrain"] = without_earlier("pretrain", _resolved(pretrain))
    unset = {name for name in LATER_DATA if config["data"].get(name) is None}
    used["data"] = {name: value for name, value in config["data"].items() if name not in unset | {"root", "eval_crop"}}
    if (subset := subset_of(used["data"])) is not None:
        used["data"]["subset"] = subset.decisive
    else:  # all images, whatever the other knobs
        used["data"].pop("subset", None)
    stops = health_of(config).on_collapse == "stop"  # otherwise it only measures
    if stage != "pretrain" or stops:
        crop = eval_crop_of(config["data"])
        if crop != plain_crop(config["data"]["image_size"]):  # which older keys lack
            used["data"]["eval_crop"] = crop._asdict()
    if stops:
        used["health"] = config["health"]
    if stage == "pretrain" and not stops and "labelled" in used["data"]:
        used["data"]["labelled"] = True  # nothing is held out of the images; which the others are does not matter
    if workers > 1 and not config["pretrain"].get("sync_batchnorm", True):
        used["workers"] = workers
    if pins := _pins_of(config.get("pins", {}), stage):
        used["pins"] = pins
    # of sweeps that began before data had an identity, finished stages lack it
    identities = {use: each for use, each in config.get("identities", {}).items() if use not in config["unkeyed"]}
    if identities := _pins_of(identities, stage):
        used["identities"] = identities
    if stage != "pretrain":
        used["evaluate"] = {stage: without_earlier(f"evaluate.{stage}", _resolved(config["evaluate"][stage]))}
    text = json.dumps([STAGE_VERSION, precision, used], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training, with what `decay_norm_and_bias` means where it is null."""
    resolved = dict(settings)
    if settings.get("optimizer") == "lars" and "decay_norm_and_bias" not in settings:
        resolved["decay_norm_and_bias"] = False  # lars decayed them before, where there is no such knob
    if "decay_norm_and_bias" in resolved and resolved["decay_norm_and_bias"] is None:
        resolved["decay_norm_and_bias"] = settings["optimizer"] != "lars"
    return resolved


def _pins_of(pins: Mapping[str, str], stage: str) -> dict[str, str]:
    """The pins without those of other evaluations."""
    others, own = "evaluation ", f"evaluation {stage} "
    return {pin: identity for pin, identity in pins.items() if f"{pin} ".startswith(own) or not pin.startswith(others)}


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
