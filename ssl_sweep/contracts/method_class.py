"""What every method promises, before a step is made: its knobs, its declarations, and that it can be built."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor, nn

from ssl_sweep.contracts import made_images
from ssl_sweep.contracts.contract import ContractError, require
from ssl_sweep.contracts.knob_checks import check_knobs, checked_knobs
from ssl_sweep.contracts.small import Small, small
from ssl_sweep.data.views import Augment
from ssl_sweep.knobs import knobs, methods
from ssl_sweep.models.encoders import Encoder, build_encoder
from ssl_sweep.training.declarations import MethodDeclarations, declared, evaluated_encoder

IMAGE_SIZE = 16
# the first that a method's annotation allows
SMALL_ENCODERS: tuple[dict[str, Any], ...] = ({"name": "resnet18", "width": 8}, {"name": "vit_tiny", "patch_size": 4})
OPTIONAL = get_type_hints(MethodDeclarations)


@dataclass(frozen=True)
class MethodPlugin:
    """A method, and how the checks build a small one."""

    name: str
    method: Any  # the class
    small: Small

    @property
    def image_size(self) -> int:
        return self.small.image_size or IMAGE_SIZE

    def build(self, seed: int = 0) -> Any:
        """A small one, in training mode; its weights are drawn by `seed`.

        Raises:
            ContractError: the constructor fails.
        """
        settings = checked_knobs(self.method, self.small.knobs, self.name)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoder = self.encoder()
            try:
                return self.method(encoder, **settings)
            except Exception as error:
                words = f"the constructor raises {type(error).__name__}: {error}"
                remedy = 'if it needs other knobs, encoder or image_size, name them in CHECK = {"knobs": {...}, ...}'
                raise ContractError(f"{words}; {remedy}", self.method) from error

    def encoder(self) -> Encoder:
        """That of CHECK, else the smallest of the kind that the annotation asks for."""
        wanted = self.small.encoder or self._smallest_encoder()
        return build_encoder({"name": wanted} if isinstance(wanted, str) else wanted, self.image_size)

    def _smallest_encoder(self) -> dict[str, Any]:
        usable = methods.usable_encoders(self.name)
        fitting = [encoder for encoder in SMALL_ENCODERS if encoder["name"] in usable]
        if not fitting and not usable:
            annotation = knobs.arguments(self.method)["encoder"].annotation
            remedy = 'name one in CHECK = {"encoder": "local/NAME"}'
            raise ContractError(f"no encoder of the package is a {annotation.__name__}; {remedy}", self.method)
        return fitting[0] if fitting else {"name": usable[0]}

    def draw(self, method: Any, count: int = 4, seed: int = 2) -> dict[str, Tensor]:
        """The views of the first photographs."""
        return dict(method.views(made_images.batch(count), self.augment, Generator().manual_seed(seed)))

    @property
    def augment(self) -> Augment:
        return Augment(self.image_size, overlay_alpha=0.3, brightness=0.4)


def load(name: str) -> MethodPlugin:
    """The method of that name; raises as `knobs.load`."""
    method = knobs.load("methods", name)
    module = knobs.load_module("methods", name)
    assert isinstance(method, type)  # noqa: S101 - every method is a class
    return MethodPlugin(name, method, small(module))


def it_has_views_and_a_loss(plugin: MethodPlugin) -> None:
    if lack := methods.lacking(plugin.name):
        raise ContractError(f"Method {lack}", plugin.method)


def its_knobs_have_types_and_defaults_and_texts(plugin: MethodPlugin) -> None:
    check_knobs(plugin.method, ("encoder",))
    checked_knobs(plugin.method, plugin.small.knobs, plugin.name)


def no_attribute_is_nearly_a_declaration(plugin: MethodPlugin) -> None:
    own = [name for name in vars(plugin.method) if not name.startswith("_") and name not in OPTIONAL]
    for name in own:
        near = get_close_matches(name, OPTIONAL, n=1, cutoff=0.8)
        remedy = "call it so, or start its name with an underscore"
        require(not near, f"{name} is nearly the declaration {''.join(near)}; {remedy}", plugin.method)


def groups_of_a_batch_are_knobs(plugin: MethodPlugin) -> None:
    defaults = checked_knobs(plugin.method, {}, plugin.name)
    groups = methods.batch_groups(plugin.name, defaults)
    for knob, number in groups.items():
        words = f"batch_groups returns {{{knob!r}: {number}}}"
        require(knob in defaults, f"{words}, which is no knob; return knobs that divide a batch", plugin.method)
        require(defaults[knob] == number, f"{words}, but the knob is {defaults[knob]}; return its value", plugin.method)


def it_can_be_built(plugin: MethodPlugin) -> None:
    method = plugin.build()
    require(isinstance(method, nn.Module), "Method is no nn.Module; derive it from torch.nn.Module", plugin.method)
    encoder = getattr(method, "encoder", None)
    remedy = "keep the argument as self.encoder: it is what is evaluated"
    if not isinstance(encoder, Encoder):
        raise ContractError(f"self.encoder is {type(encoder).__name__}; {remedy}", plugin.method)
    evaluated = evaluated_encoder(method).state_dict().keys()
    words = "the state of evaluated()[0] has other keys than self.encoder's"
    remedy = "let it return a copy of self.encoder first, as models.momentum.ema_copy makes"
    require(evaluated == encoder.state_dict().keys(), f"{words}; {remedy}", plugin.method)


def it_can_be_built_on_the_meta_device(plugin: MethodPlugin) -> None:
    try:
        with torch.device("meta"):
            plugin.build()
    except ContractError as error:
        why = str(error).partition("; ")[0]
        remedy = "compute plain numbers in Python, or on device='cpu'; a launch builds a method on the meta device"
        raise ContractError(f"{why}; {remedy}", plugin.method) from error.__cause__


def its_declarations_have_their_types(plugin: MethodPlugin) -> None:
    for name, value in vars(declared(MethodDeclarations, plugin.build())).items():
        expected = OPTIONAL[name]
        adapter = TypeAdapter[Any](expected, config={"arbitrary_types_allowed": True})
        at = getattr(plugin.method, name, plugin.method)
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError:
            words = f"{name} is {value!r}, which is not {_words(expected)}"
            raise ContractError(f"{words}; correct it, or leave it out", plugin.method) from None
        if callable(value) and not isinstance(value, nn.Module):
            _check_arguments(name, value, expected, at)


def _check_arguments(name: str, function: Callable[..., Any], expected: Any, at: Any) -> None:
    """Check that a declared function takes the arguments that it is called with."""
    kinds = (expected, *get_args(expected))
    arguments = next(get_args(kind)[0] for kind in kinds if get_origin(kind) is Callable)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        remedy = f"let it take {len(arguments) or 'no'} argument{'' if len(arguments) == 1 else 's'}"
        raise ContractError(f"{name}{inspect.signature(function)} cannot be called; {remedy}", at) from None


def _words(expected: Any) -> str:
    return getattr(expected, "__name__", None) or str(expected).replace("typing.", "").replace("collections.abc.", "")
