"""Pretraining: connects a method's views and loss with the training loop."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_sweep.data.images import Images, Shard
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import rank, world_size
from ssl_sweep.models.global_norm import global_batchnorm
from ssl_sweep.training.declarations import LossAndScalars, Method, MethodDeclarations, declared
from ssl_sweep.training.loop import Epoch, Stage, fit
from ssl_sweep.training.optimizers import Recipe


def pretrain(
    method: Method,
    train: Pack,
    augment: Augment,
    recipe: Recipe,
    stage: Stage,
    after_epoch: Callable[[Epoch], None],
) -> dict[str, float]:
    """Train `method` on `train` and return the last epoch's metrics; resumes.

    Ranks share every batch; loss and gradient are those of the whole batch, and with `recipe.sync_batchnorm` results
    do not depend on the number of ranks except for rounding.

    Raises:
        ValueError: the ranks cannot share a batch evenly.
    """
    assert isinstance(method, nn.Module)  # noqa: S101 - a Protocol cannot say so
    method.to(stage.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    step: nn.Module = _Step(method)
    if world_size() > 1:
        if recipe.sync_batchnorm:
            global_batchnorm(method, stage.device)
        step = DistributedDataParallel(step, find_unused_parameters=method.encoder.finds_unused)
        # `fit` averages statistics: rank 0's would be wrong, and sending a queue at every step is waste. (The argument
        # of this name is deprecated, and older versions of torch lack its successor.)
        step.broadcast_buffers = False

    def loss(indices: Tensor, rng: torch.Generator) -> LossAndScalars:
        images = _share(train, indices, stage.device)
        with torch.autocast(stage.device.type, enabled=False):  # views are in fp32
            views = method.views(images, augment, rng)
        outcome: LossAndScalars = step({name: _channels_last(view) for name, view in views.items()})
        return outcome

    return fit(method, loss, len(train), recipe, stage, after_epoch, drop_last=True)


class _Step(nn.Module):
    """A method's loss as a forward pass, in which DDP finds the gradients to reduce."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: dict[str, Tensor]) -> LossAndScalars:
        outcome: LossAndScalars = self.method.loss(batch)  # type: ignore[operator]
        return outcome


def _share(train: Pack, indices: Tensor, device: torch.device) -> Images:
    """This rank's images of a batch: consecutive ones, so that groups of a batch stay together."""

    def load(rows: Tensor) -> Images:
        return train.batch(indices[rows.cpu()]).to(device)

    ranks = world_size()
    if ranks == 1:
        return train.batch(indices).to(device)
    if len(indices) % ranks:
        raise ValueError(
            f"pretrain.batch_size: {ranks} workers cannot share a batch of {len(indices)} images evenly; make it a "
            f"multiple of resources.workers ({ranks}), no larger than the training set ({len(train)})"
        )
    share = len(indices) // ranks
    rows = slice(rank() * share, (rank() + 1) * share)
    local = load(torch.arange(len(indices))[rows])
    return local._replace(shard=Shard(train.sizes(indices).to(device), rows, load))


def _channels_last(view: Tensor) -> Tensor:
    return view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view


@torch.no_grad()
def visualize(method: Method, test: Pack, augment: Augment, stage: Stage) -> tuple[Tensor | None, dict[str, float]]:
    """Images that the method draws of its views of the first test images, and its metrics of the same views.

    Returns:
        (N, 3, H, W) in [0, 1], or None where the method draws none; metrics by name.
    """
    assert isinstance(method, nn.Module)  # noqa: S101
    declarations = declared(MethodDeclarations, method)
    if declarations.visualize is None:
        return None, {}
    images = test.batch(torch.arange(min(declarations.num_pictures, len(test))))
    method.to(stage.device).eval()
    batch = method.views(images.to(stage.device), augment, stage.generator("pictures"))
    drawn = declarations.visualize(batch)
    metrics = {} if declarations.visualization_metrics is None else declarations.visualization_metrics(batch)
    return drawn.float().clamp(0, 1).cpu(), {name: float(value) for name, value in metrics.items()}
