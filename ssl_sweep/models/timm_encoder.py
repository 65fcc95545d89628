"""Models of timm as encoders: `timm/NAME`. timm is an extra that takes seconds to import: only use imports it."""

import inspect
import math
from functools import cache
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_sweep.models.encoder import Normalization
from ssl_sweep.models.library import LibraryEncoder, RefusedOption

DropPathRate = Annotated[
    float | None,
    Field(ge=0, lt=1, description="stochastic depth: share of residual branches left out; null: the model's default"),
]
DropRate = Annotated[
    float | None, Field(ge=0, lt=1, description="dropout of the features before the classifier; null: the model's")
]


class LibraryModel(LibraryEncoder):
    """A model of timm, untrained: nothing is downloaded."""

    def __init__(
        self,
        image_size: int,
        *,
        normalize: Normalization = "none",
        drop_path_rate: DropPathRate = None,
        drop_rate: DropRate = None,
    ) -> None:
        super().__init__(image_size, normalize=normalize, drop_path_rate=drop_path_rate, drop_rate=drop_rate)

    @classmethod
    def models(cls) -> list[str]:
        """timm's names of its models."""
        return _models()

    @classmethod
    def native_size(cls) -> int:
        """The side in pixels of the images that the model was made for."""
        import timm

        config = timm.models.get_pretrained_cfg(cls.model)
        return int(config.input_size[1]) if config else 224

    @classmethod
    def build(cls, image_size: int, **options: Any) -> nn.Module:
        """The untrained model without its classifier."""
        import timm

        given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
        for option in given:
            if option not in _arguments(cls.model):  # some models would ignore it
                raise RefusedOption(f"encoder.{option}: timm/{cls.model} has no {option}; leave it out")
        if _is_sized(cls.model):
            given["img_size"] = image_size
        net: nn.Module = timm.create_model(cls.model, pretrained=False, num_classes=0, **given)
        return net

    @classmethod
    def construction(cls, image_size: int) -> str:
        """Python that builds the library's model, whose keys the state has."""
        size = f", img_size={image_size}" if _is_sized(cls.model) else ""
        return f"timm.create_model({cls.model!r}, num_classes=0{size})"

    @staticmethod
    def map_of(net: Any, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> the map before pooling (B, C, h, w).

        Maps with the channels last and sequences of patches become maps; a model with several streams, or whose patches
        make no square, has its features as a map of one pixel.
        """
        features: Any = net.forward_features(x)
        channels, kind = net.num_features, getattr(net, "output_fmt", None)
        if isinstance(features, Tensor) and features.ndim == 4:
            last = kind == "NHWC" or (features.shape[1] != channels and features.shape[3] == channels)
            channels_first: Tensor = features.permute(0, 3, 1, 2) if last else features
            return channels_first
        if isinstance(features, Tensor) and features.ndim == 3:
            declared = getattr(net, "num_prefix_tokens", 0)
            for prefix in (declared, 1, 2):  # class tokens, which some models do not declare
                patches: Tensor = features[:, prefix:]  # (B, N, C)
                side = math.isqrt(patches.shape[1])
                if side and side**2 == patches.shape[1]:
                    return patches.transpose(1, 2).reshape(len(x), -1, side, side)
        pooled: Tensor = net(x)
        return pooled[:, :, None, None]


@cache
def _models() -> list[str]:
    import timm

    names: list[str] = timm.list_models()
    return names


@cache
def _arguments(model: str) -> frozenset[str]:
    """The arguments of a model's class: its function passes on any."""
    import timm

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return frozenset(inspect.signature(type(timm.create_model(model, pretrained=False))).parameters)


def _is_sized(model: str) -> bool:
    """Whether a model is built for one image size."""
    import timm

    config = timm.models.get_pretrained_cfg(model)
    return bool(config and config.fixed_input_size)
