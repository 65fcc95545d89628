"""What a method's class declares, by the method's name: all that is known before a method is built."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ssl_sweep.knobs.knobs import arguments, load, own_names
from ssl_sweep.models.encoder import Encoder
from ssl_sweep.training.declarations import MethodDeclarations, declared

REQUIRED = {"views": "views(self, images, augment, rng)", "loss": "loss(self, batch)"}  # of a method that pretrains


def lacking(name: str) -> str | None:
    """Which required functions a method's class lacks, what to do, and its file; None if it lacks none."""
    method_class = load("methods", name)
    missing = [wanted for wanted in REQUIRED if not callable(getattr(method_class, wanted, None))]
    if not missing or not pretrains(name):
        return None
    optional = MethodDeclarations.__dataclass_fields__
    own = [each for each in vars(method_class) if not each.startswith("_") and each not in (*REQUIRED, *optional)]
    words = []
    for wanted in missing:
        near = get_close_matches(wanted, own, n=1)
        words.append(f"has no `{wanted}`; " + (f"rename `{near[0]}`" if near else f"define {REQUIRED[wanted]}"))
    return f"{', and '.join(words)} in {inspect.getsourcefile(method_class)}"


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


def fitted(settings: Mapping[str, Any], *, batch_size: int, train_images: int) -> dict[str, Any]:
    """A method's settings, with values for the knobs that are null and depend on the number of training images."""
    defaults_for = _declared(settings["name"]).defaults_for
    return {**settings, **defaults_for(settings, min(batch_size, train_images), train_images)}


def derived(settings: Mapping[str, Any], *, batch_size: int, train_images: int) -> dict[str, Any]:
    """The knobs that `fitted` gives a value."""
    values = fitted(settings, batch_size=batch_size, train_images=train_images)
    return {knob: value for knob, value in values.items() if settings[knob] != value}


def check_sizes(settings: Mapping[str, Any], *, batch_size: int, train_images: int | None) -> str | None:
    """Check a method's settings against the sizes of a step and of the training set, if known; returns a warning.

    Raises ValueError.
    """
    step = batch_size if train_images is None else min(batch_size, train_images)
    return _declared(settings["name"]).check_sizes(settings, step, train_images)


def can_use(name: str, encoder: str) -> bool:
    """Whether an encoder fits the method's annotation of `encoder`, and can be trained if the method pretrains."""
    annotation = arguments(load("methods", name))["encoder"].annotation
    kind = Encoder if annotation is inspect.Parameter.empty else annotation
    encoder_class = load("encoders", encoder)
    assert isinstance(encoder_class, type)  # noqa: S101 - every encoder is a class
    return issubclass(encoder_class, kind) and (encoder_class.trainable or not pretrains(name))


def usable_encoders(name: str) -> list[str]:
    """The names of the package's encoders that the method can use."""
    return [encoder for encoder in own_names("encoders") if can_use(name, encoder)]


def _declared(name: str) -> MethodDeclarations:
    method_class = load("methods", name)
    assert isinstance(method_class, type)  # noqa: S101 - every method is a class
    return declared(MethodDeclarations, method_class)
