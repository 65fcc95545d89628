"""The table of encoders. Each is called with the image size in pixels; its keyword-only arguments are knobs."""

from collections.abc import Callable, Mapping
from typing import Any

from ssl_sweep.models.encoder import Encoder
from ssl_sweep.models.library import is_library_name, library_encoder
from ssl_sweep.models.pixels import Pixels
from ssl_sweep.models.resnet import ResNet18, ResNet34, ResNet50
from ssl_sweep.models.small_nets import DrlimEncoder, ExemplarEncoder
from ssl_sweep.models.vit import ViTBase, ViTSmall, ViTTiny
from ssl_sweep.plugins import catalog

__all__ = ["ENCODERS", "WEIGHTS", "Encoder", "build_encoder", "encoder_class", "without_weights"]

WEIGHTS = ("weights", "from")  # knobs of every encoder that do not build it, see `weights.py`
ENCODERS: dict[str, type[Encoder]] = {
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "vit_tiny": ViTTiny,
    "vit_small": ViTSmall,
    "vit_base": ViTBase,
    "drlim": DrlimEncoder,
    "exemplar": ExemplarEncoder,
    "pixels": Pixels,
}


def encoder_class(name: str) -> type[Encoder]:
    """The class of an encoder of the table, of a library's model, or of a plugin, whose module has it as `Backbone`.

    Raises:
        PluginError: there is no encoder of this name, or its plugin cannot be used.
        LibraryError: the library is not installed, or has no such model.
    """
    if is_library_name(name):
        return library_encoder(name)
    catalog.check_free("encoders", name, ENCODERS)
    if name in ENCODERS:
        return ENCODERS[name]
    backbone: type[Encoder] = catalog.attribute("encoders", name, "Backbone")
    return backbone


def without_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an encoder that build it."""
    return {knob: value for knob, value in settings.items() if knob not in WEIGHTS}


def build_encoder(settings: Mapping[str, Any], image_size: int) -> Encoder:
    """The encoder of a spec's `encoder` section, which has its `name` and its knobs; its weights are random ones."""
    knobs = without_weights(settings)
    constructor: Callable[..., Encoder] = encoder_class(knobs.pop("name"))
    return constructor(image_size, **knobs)
