"""What the state of every method that pretrains promises: a resumed trial ends as an unbroken one."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ssl_sweep.contracts import made_images
from ssl_sweep.contracts.contract import require
from ssl_sweep.contracts.method_class import MethodPlugin
from ssl_sweep.training.declarations import MethodDeclarations, declared
from ssl_sweep.training.loop import Epoch, Stage, Stop
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.pretrain import pretrain

EPOCHS = 2


def all_that_matters_is_in_the_state(plugin: MethodPlugin) -> None:
    method, restored = plugin.build(seed=0), plugin.build(seed=1)
    method.loss(plugin.draw(method))[0].backward()
    declared(MethodDeclarations, method).after_step(0.5)
    restored.load_state_dict(method.state_dict())
    lost = "; ".join(_lost(method, restored)) or "nothing is known to differ but Python's own state"
    batch = plugin.draw(method, seed=5)
    same = torch.equal(restored.loss(batch)[0], method.loss(batch)[0])
    words = "a method that is restored from the state of another has another loss"
    require(same, f"{words}; keep all state in parameters and persistent buffers: {lost}", plugin.method)


def _lost(method: nn.Module, restored: nn.Module) -> Iterator[str]:
    """What differs between a module and its restored copy."""
    for (path, module), other in zip(method.named_modules(), restored.modules(), strict=False):
        prefix = f"{path}." if path else ""
        for name, buffer in module.named_buffers(recurse=False):
            if name in module._non_persistent_buffers_set and not _same(buffer, getattr(other, name, None)):
                yield f"{prefix}{name} is a buffer with persistent=False"
        for name, value in vars(module).items():
            if isinstance(value, Tensor | int | float | list | tuple) and not _same(value, vars(other).get(name)):
                yield f"{prefix}{name} is an attribute; register it: self.register_buffer({name!r}, torch.tensor(...))"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    try:
        return bool(one == other)
    except Exception:  # a list of tensors, for example: it is not known to differ
        return True


def a_resumed_run_ends_as_an_unbroken_one(plugin: MethodPlugin) -> None:
    with TemporaryDirectory() as folder:
        unbroken = _pretrained(plugin, Path(folder) / "unbroken", seed=0)
        _pretrained(plugin, Path(folder) / "broken", seed=0, stop=True)
        resumed = _pretrained(plugin, Path(folder) / "broken", seed=1)
    differing = [name for name in unbroken if name not in resumed or not torch.equal(resumed[name], unbroken[name])]
    words = f"a pretraining that is stopped and resumed ends with other values of {', '.join(differing[:3])}"
    remedy = "keep all that a later step needs in parameters and persistent buffers"
    require(not differing and resumed.keys() == unbroken.keys(), f"{words}; {remedy}", plugin.method)


def _pretrained(plugin: MethodPlugin, folder: Path, seed: int, *, stop: bool = False) -> dict[str, Tensor]:
    """The state after two epochs of two steps, or after one if it is stopped."""
    method = plugin.build(seed)

    def after_epoch(epoch: Epoch) -> None:
        if stop:
            raise Stop

    recipe = Recipe(epochs=EPOCHS, batch_size=4, lr=0.01)
    stage = Stage(folder, lambda metrics, step: None, 3, torch.device("cpu"))
    with suppress(Stop):
        pretrain(method, made_images.photographs(8), plugin.augment, recipe, stage, after_epoch)
    state: dict[str, Tensor] = method.state_dict()
    return state
