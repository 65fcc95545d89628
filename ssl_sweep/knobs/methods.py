"""What a method's class declares, by the method's name: all that is known before a method is built."""

import inspect
from collections.abc import Mapping
from typing import Any

from ssl_sweep.knobs.knobs import load
from ssl_sweep.models.encoders import ENCODERS, Encoder
from ssl_sweep.training.declarations import MethodDeclarations, declared


def pretrains(name: str) -> bool:
    """Whether the method has a pretraining; without one, evaluations start from the untrained encoder."""
    return _declared(name).pretrains


def view_recipe(name: str) -> str:
    """The recipe of `views` that the method declares for `views.recipe: auto`."""
    return _declared(name).view_recipe


def batch_groups(name: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """Knob to value, of the knobs that divide each batch into groups, which workers must share evenly."""
    return _declared(name).batch_groups(settings)


def needs_labels(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the method cannot pretrain on images without labels."""
    return _declared(name).needs_labels(settings)


def usable_encoders(name: str) -> list[str]:
    """Encoders that fit the method's annotation of `encoder`, and can be trained where the method pretrains."""
    annotation = inspect.signature(load("methods", name)).parameters["encoder"].annotation
    kind = Encoder if annotation is inspect.Parameter.empty else annotation
    fitting = {encoder: cls for encoder, cls in sorted(ENCODERS.items()) if issubclass(cls, kind)}
    return [encoder for encoder, cls in fitting.items() if cls.trainable or not pretrains(name)]


def _declared(name: str) -> MethodDeclarations:
    method_class = load("methods", name)
    assert isinstance(method_class, type)  # noqa: S101 - every method is a class
    return declared(MethodDeclarations, method_class)
