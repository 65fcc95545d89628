"""Classification models of torchvision as encoders (`torchvision/NAME`)."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import DenseNet, VisionTransformer

from ssl_sweep.models.encoder import Normalization
from ssl_sweep.models.library import LibraryEncoder

LIBRARY: Any = models  # type checkers do not see what it re-exports
NUM_CLASSES = 1000  # of torchvision's classifiers
HEADS = ("avgpool", "classifier", "fc", "head")  # the layers after the map begin with one of these
NATIVE = {"inception_v3": 299}


class LibraryModel(LibraryEncoder):
    """A classification model of torchvision, untrained: nothing is downloaded."""

    def __init__(self, image_size: int, *, normalize: Normalization = "none") -> None:
        super().__init__(image_size, normalize=normalize)

    @classmethod
    def models(cls) -> list[str]:
        """torchvision's names of its models."""
        return _models()

    @classmethod
    def native_size(cls) -> int:
        """The side in pixels of the images that the model was made for."""
        return NATIVE.get(cls.model, 224)

    @classmethod
    def build(cls, image_size: int, **options: Any) -> nn.Module:
        """The untrained model without the last layer of its classifier."""
        net: nn.Module = LIBRARY.get_model(cls.model, weights=None, **_arguments(cls.model, image_size))
        path, _ = [(path, layer) for path, layer in net.named_modules() if _is_last(layer)][-1]
        net.set_submodule(path, nn.Identity())
        return net

    @classmethod
    def construction(cls, image_size: int) -> str:
        """Python that builds the library's model, whose keys the state has."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in _arguments(cls.model, image_size).items())
        return f"torchvision.models.{cls.model}({arguments})"

    @staticmethod
    def map_of(net: nn.Module, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> the map before pooling (B, C, h, w)."""
        if isinstance(net, VisionTransformer):
            patches = net._process_input(x)  # (B, N, D)
            tokens: Tensor = net.encoder(torch.cat([net.class_token.expand(len(x), -1, -1), patches], dim=1))
            side = net.image_size // net.patch_size
            return tokens[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side)
        for name, layer in net.named_children():
            if name in HEADS:
                break
            for part in layer if isinstance(layer, nn.ModuleList) else [layer]:
                x = part(x)
        return torch.relu(x) if isinstance(net, DenseNet) else x


@cache
def _models() -> list[str]:
    names: list[str] = LIBRARY.list_models(module=models)
    return names


def _is_last(layer: nn.Module) -> bool:
    """Whether a layer gives the classes."""
    return NUM_CLASSES in (getattr(layer, "out_features", None), getattr(layer, "out_channels", None))


def _arguments(model: str, image_size: int) -> dict[str, Any]:
    """Arguments of the models that are built for one image size, or have classifiers besides the last one."""
    family = model.partition("_")[0]
    sized: dict[str, dict[str, Any]] = {
        "vit": {"image_size": image_size},
        "maxvit": {"input_size": (image_size, image_size)},
    }
    auxiliary: dict[str, Any] = {"aux_logits": False, "init_weights": True}
    return sized.get(family, auxiliary if family in ("googlenet", "inception") else {})
