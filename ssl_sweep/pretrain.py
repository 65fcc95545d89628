"""Pretraining: a method, its views and the loop."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.views import Augment
from ssl_sweep.optimizers import Recipe
from ssl_sweep.training import Epoch, Stage, fit


class Method(Protocol):
    """What a file of `methods/` offers; `after_step(progress)`, `pictures(batch)`, `pictured(batch)` are optional."""

    encoder: nn.Module

    def views(self, images: Images, augment: Augment, rng: torch.Generator) -> dict[str, Tensor]: ...
    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]: ...


def pretrain(
    method: Method,
    train: Pack,
    augment: Augment,
    recipe: Recipe,
    stage: Stage,
    after_epoch: Callable[[Epoch], None],
) -> dict[str, float]:
    """Train `method` on `train` and return the last epoch's metrics; resumes.

    Of labels a method sees only what it asks for (DrLIM's pairs by label).
    """
    assert isinstance(method, nn.Module)  # noqa: S101 - a Protocol cannot say so
    method.to(stage.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(indices: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = train.batch(indices).to(stage.device)
        with torch.autocast(stage.device.type, enabled=False):  # views are made in fp32
            views = method.views(images, augment, rng)
        return method.loss({name: _channels_last(view) for name, view in views.items()})

    return fit(method, loss, len(train), recipe, stage, after_epoch, drop_last=True)


def _channels_last(view: Tensor) -> Tensor:
    return view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view


@torch.no_grad()
def pictures(method: Method, images: Images, augment: Augment, stage: Stage) -> tuple[Tensor | None, dict[str, float]]:
    """What the method wants to show of itself on `images`, and what it measures of what is shown.

    Returns:
        (N, 3, H, W) in [0, 1], or None; numbers by name, from the method's `pictured(batch)`.
    """
    draw, measure = getattr(method, "pictures", None), getattr(method, "pictured", None)
    if draw is None:
        return None, {}
    assert isinstance(method, nn.Module)  # noqa: S101
    method.to(stage.device).eval()
    batch = method.views(images.to(stage.device), augment, stage.generator("pictures"))
    shown: Tensor = draw(batch)
    measured: dict[str, Tensor] = {} if measure is None else measure(batch)
    return shown.float().clamp(0, 1).cpu(), {name: float(value) for name, value in measured.items()}
