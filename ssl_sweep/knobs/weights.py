"""The knobs that every encoder has, where its weights come from; and where a subset's features come from."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ssl_sweep.data.subset import Subset
from ssl_sweep.knobs.problems import Finding, validation_error
from ssl_sweep.models.weights import SUFFIX, conversion

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".tar")


def _check_name(file: str) -> str:
    if file.endswith(SUFFIX):
        return file
    if Path(file).suffix.lower() in PICKLES:
        message = "may run code when it is read: weights are safetensors files"
        raise validation_error(Finding((), file, message, f"convert it once: {conversion(file)}"))
    raise validation_error(Finding((), file, "is no safetensors file", f"name a file that ends in {SUFFIX}"))


Weights = Annotated[
    Annotated[str, AfterValidator(_check_name)] | None,
    Field(
        description="FILE.safetensors with weights to begin from, below the folder of the data: one of ssl-sweep "
        "export, timm or torchvision; null: random ones",
    ),
]
Origin = Annotated[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9_-]+)?$")] | None,
    Field(
        description="an earlier SWEEP of the storage, to begin from its best trial's encoder, or SWEEP/TRIAL; null: "
        "random weights"
    ),
]
SubsetOrigin = Annotated[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9_-]+)?$")] | None,
    Field(
        description="whose features decide: an earlier SWEEP of the storage, by its best trial's encoder, or "
        "SWEEP/TRIAL; `encoder`: the trial's own as it begins, from weights; null: random needs none"
    ),
]
ENCODER_KNOBS: dict[str, tuple[Any, None]] = {"weights": (Weights, None), "from": (Origin, None)}
# `from` is no name that an argument can have
RENAMED: dict[Any, tuple[str, str, Any]] = {Subset: ("origin", "from", (SubsetOrigin, None))}
