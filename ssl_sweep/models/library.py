"""Encoders of libraries, by name: `timm/NAME` and `torchvision/NAME`, without their classifiers."""

import importlib
from abc import ABC, abstractmethod
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_sweep.errors import UserError
from ssl_sweep.models.encoder import Encoder, Normalization

LIBRARIES = {"timm": "timm_encoder", "torchvision": "torchvision_encoder"}  # and their files here
MODELS_OF = {"timm": "timm.list_models()", "torchvision": "torchvision.models.list_models(module=torchvision.models)"}
STRIDES = (8, 14)  # sides that are multiples of these are proposed where an image size is refused
MAX_TRIES = 12  # sizes tried for a proposal, in each direction


class LibraryError(UserError, ValueError):
    """A library is not installed, or has no such model."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.message, self.remedy = message, remedy


class LibraryEncoder(Encoder, ABC):
    """A model of a library without its classifier; its state has the library's own keys.

    A subclass for each library builds the model and gives its map; `library_encoder` makes one of it for each model.
    Features are those that the library's model gives to its classifier. They may pass layers that the map does not.

    Raises:
        ValueError: the model does not take the image size; the message has sizes that it takes.
    """

    name: ClassVar[str]  # as a spec has it
    model: ClassVar[str]  # as the library has it
    finds_unused = True

    def __init__(self, image_size: int, *, normalize: Normalization = "none", **options: Any) -> None:
        shape, feature_dim = _shapes(self.name, image_size, tuple(sorted(options.items())))
        super().__init__(self.built(image_size, **options), image_size, shape, normalize=normalize)
        self.feature_dim = feature_dim

    @classmethod
    def built(cls, image_size: int, **options: Any) -> nn.Module:
        """`build` on the default device, also where this is the meta device."""
        try:
            return cls.build(image_size, **options)
        except NotImplementedError:  # RegNets compute their widths by tensors, which have no values there
            with torch.device("cpu"):
                net = cls.build(image_size, **options)
            return net.to(torch.get_default_device())

    @classmethod
    @abstractmethod
    def models(cls) -> list[str]:
        """The library's names of its models."""

    @classmethod
    @abstractmethod
    def native_size(cls) -> int:
        """The side in pixels of the images that the model was made for."""

    @classmethod
    @abstractmethod
    def build(cls, image_size: int, **options: Any) -> nn.Module:
        """The untrained model without its classifier; an error if it cannot have this image size."""

    @classmethod
    @abstractmethod
    def construction(cls, image_size: int) -> str:
        """Python that builds the library's model, whose keys the state has."""

    @staticmethod
    @abstractmethod
    def map_of(net: nn.Module, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> the map before pooling (B, C, h, w)."""

    def feature_map(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> (B, C, h, w)."""
        return self.map_of(self.net, self.normalize(x))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> features (B, feature_dim), pooled as the model does."""
        features: Tensor = self.net(self.normalize(x))
        return features


def is_library_name(name: str) -> bool:
    """Whether an encoder's name is one of a library's, as `timm/convnext_atto` is."""
    library, slash, _ = name.partition("/")
    return bool(slash) and library in LIBRARIES


@cache
def library_encoder(name: str) -> type[LibraryEncoder]:
    """The class of `timm/NAME` or `torchvision/NAME`.

    Raises:
        LibraryError: the library is not installed, or has no such model; the error proposes similar names.
    """
    library, _, model = name.partition("/")
    known = _models(library)
    if model not in known:
        near = " or ".join(f"'{library}/{each}'" for each in get_close_matches(model, known, n=3))
        remedy = f"did you mean {near}?" if near else f"{MODELS_OF[library]} lists its {len(known):,} models"
        raise LibraryError(f"{library} has no model {model!r}", remedy)
    base = library_class(library)
    made: type[LibraryEncoder] = type(model, (base,), {"name": name, "model": model, "__doc__": base.__doc__})
    return made


def library_names(model: str) -> list[str]:
    """The full names of the libraries' models that have this name: `resnet18` is in both."""
    return [f"{library}/{model}" for library in LIBRARIES if find_spec(library) and model in _models(library)]


def library_class(library: str) -> type[LibraryEncoder]:
    """The class that all models of a library have in common, with their knobs. The library is not imported."""
    base: type[LibraryEncoder] = importlib.import_module(f"ssl_sweep.models.{LIBRARIES[library]}").LibraryModel
    return base


def _models(library: str) -> list[str]:
    if find_spec(library) is None:
        remedy = f"install it where specs are read and where trials run: pip install 'ssl-sweep[{library}]'"
        raise LibraryError(f"{library} is not installed", remedy)
    return library_class(library).models()


@cache
def _shapes(name: str, image_size: int, options: tuple[tuple[str, Any], ...]) -> tuple[tuple[int, int, int], int]:
    """The map's shape and the features' number, by a forward pass without memory. Raises ValueError, as the class."""
    encoder = library_encoder(name)
    try:
        return _tried(encoder, image_size, dict(options))
    except RefusedOption:
        raise
    except Exception as error:  # models refuse a size by errors of many types
        raise ValueError(_refusal(encoder, image_size, error)) from error


def _tried(encoder: type[LibraryEncoder], image_size: int, options: dict[str, Any]) -> tuple[tuple[int, int, int], int]:
    # a model draws its weights: without the fork, the first trial of a process would have others than the next
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        net = encoder.built(image_size, **options).eval()
        _check_patches(net, image_size)
        images = torch.empty(2, 3, image_size, image_size)
        _, channels, height, width = encoder.map_of(net, images).shape
        _, features = net(images).shape
    if min(height, width) < 1:
        raise ValueError("its map would be empty")
    return (channels, height, width), features


def _check_patches(net: nn.Module, image_size: int) -> None:
    """Check that the patches into which a model cuts images cover all of them: a convolution drops the rest unsaid."""
    first = next((each for each in net.modules() if isinstance(each, nn.Conv2d) and each.in_channels == 3), None)
    if first is None or first.kernel_size != first.stride or any(first.padding):
        return
    side, rest = first.stride[0], image_size % first.stride[0]
    if rest:
        raise ValueError(f"its patches of {side} pixels leave out {rest} pixels at two borders")


class RefusedOption(ValueError):  # noqa: N818 - says what it is
    """The model does not have a knob."""


def _refusal(encoder: type[LibraryEncoder], image_size: int, error: Exception) -> str:
    native = encoder.native_size()
    reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    if not _takes(encoder, native):
        return f"{encoder.name} cannot be used as an encoder ({reason}); use another model"
    sizes = [size for size in range(8, 4 * image_size + 256) if any(size % stride == 0 for stride in STRIDES)]
    smaller, larger = (
        (size for size in reversed(sizes) if size < image_size),
        (size for size in sizes if size > image_size),
    )
    near = [
        next((size for size in islice(tried, MAX_TRIES) if _takes(encoder, size)), None) for tried in (smaller, larger)
    ]
    taken = " or ".join(str(size) for size in dict.fromkeys([*near, native]) if size is not None)
    return f"data.image_size: {encoder.name} does not take images of {image_size} pixels ({reason}); use {taken}"


def _takes(encoder: type[LibraryEncoder], image_size: int) -> bool:
    try:
        return bool(_tried(encoder, image_size, {}))
    except Exception:
        return False
