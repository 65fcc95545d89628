"""Knobs that were added after sweeps had begun, each with the value that means what was done before it existed.

A stored spec that lacks such a knob gets this value, and keys of stages leave it out while the knob has it. So sweeps
that began before go on as they were, and their finished stages stay finished, whatever the default of the knob is now.
"""

from collections.abc import Mapping
from typing import Any

# by the section's path in a spec: the name of an encoder or a method, or an evaluation's, is its last part
EARLIER: dict[str, dict[str, Any]] = {
    "pretrain": {
        "steps": None,
        "epoch_steps": None,
        "beta2": 0.999,
        "nesterov": False,
        "decay_tokens": True,
        "final_lr": 0.0,
        "bias_lr": None,
        "final_weight_decay": None,
    },
    **{f"method.{name}": {"encoder_of": "student"} for name in ("byol", "featmix", "leoclr", "moco", "moco_v3")},
    # not here: semi_supervised and robustness, which with the same knobs measure something else than they did
    **{f"evaluate.{name}": {"standardize": False, "refit": False} for name in ("linear", "transfer")},
    "evaluate.knn": {"refit": False},
    "evaluate.finetune": {
        "refit": False,
        "beta2": 0.999,
        "nesterov": False,
        "decay_norm_and_bias": True,
        "decay_tokens": True,
        "warmup_epochs": 0.0,
        "final_lr": 0.0,
        "clip_norm": None,
        "layer_decay": 1.0,
        "drop_path": 0.0,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "rand_augment": None,
        "ema": None,
    },
    "evaluate.semi_supervised": {"label_lists": []},
    "method.dino": {
        "encoder_of": "student",
        "local_side": 1.0,
        "local_blur": None,
        "local_solarize": None,
        "patch_weight": 0.0,
        "patch_mask_min": 0.1,
        "patch_mask_max": 0.5,
    },
}


def with_earlier(path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A section's settings, with the earlier meaning of the knobs that they lack."""
    return {**EARLIER.get(path, {}), **settings}


def without_earlier(path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A section's settings without the later knobs that have their earlier meaning."""
    earlier = EARLIER.get(path, {})
    return {knob: value for knob, value in settings.items() if knob not in earlier or value != earlier[knob]}
