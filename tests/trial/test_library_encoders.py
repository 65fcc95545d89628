"""Trials with encoders of timm and torchvision, from the spec to the metrics."""

import math
from pathlib import Path
from typing import Any

import pytest

from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.spec.file import check_spec
from ssl_sweep.spec.sweep import resolve
from ssl_sweep.trial import run as trial

METHODS: dict[str, dict[str, Any]] = {
    "moco": {"queue_size": 32, "bn_splits": 2},
    "simclr": {},
    "autoencoder": {},
    "supervised": {},
}


def config(encoder: Any, method: Any, image_size: int = 32) -> dict[str, Any]:
    spec = check_spec(
        {
            "name": "library",
            "data": {"source": "digits", "image_size": image_size, "train_images": 32},
            "encoder": encoder,
            "method": method,
            "pretrain": {"epochs": 1, "batch_size": 16},
            "evaluate": {"knn": {"k": 5}},
            "precision": "fp32",
        }
    )
    return resolve(spec, {}, 0)


@pytest.mark.parametrize("encoder", ["timm/convnext_atto", "torchvision/efficientnet_b0"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_train_them(encoder: str, method: str, tmp_path: Path, cache: Path) -> None:
    settings = config(encoder, {"name": method, **METHODS[method]})
    results = trial.run(settings, lambda metrics, step: None, tmp_path, cache=cache)
    assert 0 < results["knn/top1_test"] < 100  # of two steps no more can be asked
    assert ("pretrain/loss" in results) == (method != "supervised")
    assert all(math.isfinite(value) for value in results.values())


@pytest.mark.parametrize(
    ("encoder", "method", "image_size", "message"),
    [
        (
            "timm/vit_tiny_patch16_224",
            "mae",
            32,
            "mae cannot use timm/vit_tiny_patch16_224; use one of vit_base, ",
        ),
        (
            "torchvision/maxvit_t",
            "simclr",
            32,
            "data.image_size: torchvision/maxvit_t does not take images of 32",
        ),
        ({"name": "timm/vgg11", "drop_path_rate": 0.1}, "simclr", 32, "timm/vgg11 has no drop_path_rate; leave it out"),
        ({"name": "timm/vgg11", "width": 8}, "simclr", 32, "encoder.width: 8: is not a knob of timm/vgg11"),
        ("timm/convnext_ato", "simclr", 32, "did you mean 'timm/convnext_atto'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_spec(encoder: Any, method: str, image_size: int, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        config(encoder, method, image_size)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 500
