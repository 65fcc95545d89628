"""Frozen features of an image's views, and of some images of a split: the same ones in every trial."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.pack import Pack
from ssl_sweep.training.features import EVAL_BATCH
from ssl_sweep.training.loop import Stage

View = Callable[[Images], Tensor]  # a batch of images -> (B, 3, S, S) in [0, 1]


def some(pack: Pack, count: int) -> Pack:
    """At most `count` images of a split, the same whatever the trial's seed: trials are compared by them."""
    return pack.subset(torch.randperm(len(pack), generator=torch.Generator().manual_seed(0))[:count])


@torch.no_grad()
def view_features(encoder: nn.Module, pack: Pack, views: Sequence[View], stage: Stage) -> Tensor:
    """Pooled features (V, N, D) in fp32 of every image of a split as each of `views` shows it, in evaluation mode."""
    encoder.to(stage.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    seen: list[list[Tensor]] = [[] for _ in views]
    for indices in torch.split(torch.arange(len(pack)), EVAL_BATCH):
        images = pack.batch(indices).to(stage.device)
        for view, features in zip(views, seen, strict=True):
            shown = view(images).contiguous(memory_format=torch.channels_last)
            with stage.autocast():
                features.append(encoder(shown).float())
    return torch.stack([torch.cat(features) for features in seen])
