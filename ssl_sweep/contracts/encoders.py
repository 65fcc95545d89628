"""The contract of encoders: shapes, names of weights, and the sizes that it takes. Built without memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ssl_sweep.contracts.contract import Check, Contract, ContractError, require
from ssl_sweep.contracts.knob_checks import check_knobs, checked_knobs
from ssl_sweep.contracts.small import Small, small
from ssl_sweep.knobs import knobs
from ssl_sweep.models.encoders import Encoder, without_weights

IMAGE_SIZE = 32
SIZES = (8, 17, 32, 33, 64, 224)  # pixels, as users have them; a spec allows no fewer than 8


@dataclass(frozen=True)
class EncoderPlugin:
    """An encoder, and the knobs and the image size that the checks build it with."""

    name: str
    encoder: Callable[..., Encoder]
    small: Small

    @property
    def image_size(self) -> int:
        return self.small.image_size or IMAGE_SIZE

    def build(self, image_size: int) -> Encoder:
        """In evaluation mode, on the meta device."""
        settings = checked_knobs(self.encoder, self.small.knobs, self.name)
        settings = checked_knobs(self.encoder, self.small.knobs, self.name)
        with torch.device("meta"):
            return self.encoder(image_size, **without_weights(settings)).eval()


def load(name: str) -> EncoderPlugin:
    """The encoder of that name; raises as `knobs.load`."""
    import sys

    encoder = knobs.load("encoders", name)
    return EncoderPlugin(name, encoder, small(sys.modules[encoder.__module__]))


def its_knobs_have_types_and_defaults_and_texts(plugin: EncoderPlugin) -> None:
    check_knobs(plugin.encoder, ("image_size",))
    checked_knobs(plugin.encoder, plugin.small.knobs, plugin.name)


def it_can_be_built_on_the_meta_device(plugin: EncoderPlugin) -> None:
    try:
        encoder = plugin.build(plugin.image_size)
    except ContractError:
        raise
    except Exception as error:
        words = f"it cannot be built for {plugin.image_size} pixels: {type(error).__name__}: {error}"
        remedy = "compute plain numbers in Python, or on device='cpu'; other knobs, or image_size, can stand in CHECK"
        raise ContractError(f"{words}; {remedy}", plugin.encoder) from error
    remedy = "derive it from ssl_sweep.models.encoder.Encoder"
    require(isinstance(encoder, Encoder), f"it is no Encoder; {remedy}", plugin.encoder)


def its_shapes_are_those_that_it_declares(plugin: EncoderPlugin) -> None:
    _check_shapes(plugin, plugin.build(plugin.image_size), plugin.image_size)


def _check_shapes(plugin: EncoderPlugin, encoder: Encoder, size: int) -> None:
    images = torch.empty(2, 3, size, size, device="meta")
    words = f"image_size is {encoder.image_size}, not {size}"
    require(encoder.image_size == size, f"{words}; pass it to super().__init__", plugin.encoder)
    maps, features = encoder.feature_map(images), encoder(images)
    expected, declared = (2, *encoder.map_shape), "super().__init__(net, image_size, map_shape)"
    words = f"at {size} pixels feature_map returns {tuple(maps.shape)}, and map_shape is {tuple(encoder.map_shape)}"
    require(maps.shape == expected, f"{words}; correct it in {declared}", plugin.encoder)
    words = f"at {size} pixels it returns {tuple(features.shape)}, and feature_dim is {encoder.feature_dim}"
    remedy = f"set self.feature_dim after {declared}"
    require(features.shape == (2, encoder.feature_dim), f"{words}; {remedy}", plugin.encoder)


def its_weights_are_below_net(plugin: EncoderPlugin) -> None:
    for name, _ in plugin.build(plugin.image_size).named_parameters():
        words = f"the weight {name} is not in self.net, so that it would be exported under another name"
        require(name.startswith("net."), f"{words}; make it part of net", plugin.encoder)


def it_is_trainable_if_it_has_weights(plugin: EncoderPlugin) -> None:
    encoder = plugin.build(plugin.image_size)
    has_weights = any(True for _ in encoder.parameters())
    words = f"trainable is {encoder.trainable}, and it has {'weights' if has_weights else 'no weights'}"
    require(encoder.trainable == has_weights, f"{words}; set trainable = {has_weights} in the class", plugin.encoder)


def a_size_that_it_cannot_take_is_refused_in_words(plugin: EncoderPlugin) -> None:
    example = 'raise ValueError(f"image_size: {image_size} is too small; use 64 or more") in the constructor'
    for size in SIZES:
        try:
            encoder = plugin.build(size)
        except ValueError as error:
            words = f"the error for {size} pixels is {str(error)!r}"
            names_both = str(size) in str(error) and ";" in str(error)
            require(names_both, f"{words}; name the size and, after a semicolon, a remedy", plugin.encoder)
            continue
        except Exception as error:
            words = f"the constructor raises {type(error).__name__} for {size} pixels: {error}"
            raise ContractError(f"{words}; {example}", plugin.encoder) from error
        try:
            _check_shapes(plugin, encoder, size)
        except ContractError:
            raise
        except Exception as error:
            words = f"it is built for {size} pixels, and then raises {type(error).__name__}: {error}"
            raise ContractError(f"{words}; {example}", plugin.encoder) from error


_KNOBS, _BUILT = its_knobs_have_types_and_defaults_and_texts, it_can_be_built_on_the_meta_device
CHECKS = (
    Check(_KNOBS),
    Check(_BUILT, (_KNOBS,)),
    Check(its_shapes_are_those_that_it_declares, (_BUILT,)),
    Check(its_weights_are_below_net, (_BUILT,)),
    Check(it_is_trainable_if_it_has_weights, (_BUILT,)),
    Check(a_size_that_it_cannot_take_is_refused_in_words, (its_shapes_are_those_that_it_declares,)),
)

ENCODERS = Contract(load, lambda plugin: CHECKS)
