"""What a method must offer and may declare, and the default of each declaration.

A method inherits from none of these classes: an attribute of the name is the declaration, and `declared` reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment

Batch = dict[str, Tensor]
LossAndScalars = tuple[Tensor, dict[str, Tensor]]


class Method(Protocol):
    """What every file of `methods/` offers; `MethodDeclarations` has what is optional."""

    encoder: nn.Module

    def views(self, images: Images, augment: Augment, rng: torch.Generator) -> Batch:
        """The step's views by name; every random number is drawn from `rng`, through `images.sampler(rng)`."""

    def loss(self, batch: Batch) -> LossAndScalars:
        """The loss of what `views` returned, and detached scalars to log."""


def _no_step(progress: float) -> None:
    """The default of `after_step`."""


def _no_groups(settings: Mapping[str, Any]) -> dict[str, int]:
    """The default of `batch_groups`."""
    return {}


def _no_labels(settings: Mapping[str, Any]) -> bool:
    """The default of `needs_labels`."""
    return False


def _no_defaults(settings: Mapping[str, Any], batch_size: int, train_images: int) -> dict[str, Any]:
    """The default of `defaults_for`."""
    return {}


def _any_sizes(settings: Mapping[str, Any], batch_size: int, train_images: int | None) -> None:
    """The default of `check_sizes`."""


@dataclass(frozen=True, kw_only=True)
class TrainingDeclarations:
    """Optional attributes of any module that `loop.fit` trains: a method, or the heads of an evaluation."""

    constant_lr: tuple[str, ...] = ()
    """Names of child modules whose learning rate stays at its peak."""

    parameter_groups: Callable[[], list[dict[str, Any]]] | None = None
    """Returns the optimiser's groups, each with a `peak_lr` of its own; None: `optimizers.parameter_groups`."""

    after_step: Callable[[float], None] = _no_step
    """Called after each step with the progress, from 0 to 1: momentum updates, schedules."""


@dataclass(frozen=True, kw_only=True)
class MethodDeclarations(TrainingDeclarations):
    """Optional attributes of a method; `pretrains` to `check_sizes` are read from its class, before it is built."""

    pretrains: bool = True
    """False: there is no pretraining, and evaluations start from the untrained encoder."""

    view_recipe: str = "none"
    """The views of the method's paper, a name in `data.recipes.RECIPES`: the defaults of a spec's `views`."""

    batch_groups: Callable[[Mapping[str, Any]], dict[str, int]] = _no_groups
    """Knob to value, of the knobs that divide a batch into groups; the workers must be able to share the groups."""

    needs_labels: Callable[[Mapping[str, Any]], bool] = _no_labels
    """Whether its loss reads labels with these knobs; a sweep of images without any is then refused."""

    defaults_for: Callable[[Mapping[str, Any], int, int], dict[str, Any]] = _no_defaults
    """(settings, images of a step, training images) -> values of the knobs that are null and depend on these."""

    check_sizes: Callable[[Mapping[str, Any], int, int | None], str | None] = _any_sizes
    """(settings, images of a step, training images or None): called before a sweep begins. Raises ValueError, which
    names a knob and a remedy, if the settings do not fit them; None: the data is not at hand. A text that it returns
    is a warning, which begins with the knob."""

    projector: nn.Module | None = None
    """Maps features (N, D) to the projections that `health.votes_by: projections` compares."""

    evaluated: Callable[[], nn.Sequential] | None = None
    """Returns the encoder that health, evaluations and exports have, and its projector; None: `encoder`, `projector`.
    Its state has the keys of `encoder`'s."""

    num_pictures: int = 8
    """Test images, at most, whose views `visualize` and `visualization_metrics` receive."""

    visualize: Callable[[Batch], Tensor] | None = None
    """Returns images (N, 3, H, W) in [0, 1] of a batch of views, for MLflow and the page; None: there are none."""

    visualization_metrics: Callable[[Batch], dict[str, Tensor]] | None = None
    """Returns numbers about the same views, logged before the first epoch and after the last."""


def evaluated_encoder(method: Method) -> nn.Module:
    """The encoder of a method that is evaluated: its own, or a moving average of it."""
    evaluated = getattr(method, "evaluated", None)
    return method.encoder if evaluated is None else evaluated()[0]


Declarations = TypeVar("Declarations", bound=TrainingDeclarations)


def declared(kind: type[Declarations], owner: nn.Module | type) -> Declarations:
    """What `owner`, a module or its class, declares of `kind`; defaults stand for what it lacks or has as None."""
    values = {field.name: getattr(owner, field.name, None) for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if value is not None})
