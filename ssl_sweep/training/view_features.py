"""Frozen features of several views of each image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.pack import Pack
from ssl_sweep.training.features import EVAL_BATCH
from ssl_sweep.training.loop import Stage

View = Callable[[Images], Tensor]  # a batch of images -> (B, 3, S, S) in [0, 1]


@torch.no_grad()
def view_features(encoder: nn.Module, pack: Pack, views: Sequence[View], stage: Stage) -> Tensor:
    """Pooled features (V, N, D) in fp32 of each of `views` of every image of a split, in evaluation mode."""
    encoder.to(stage.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    features_by_view: list[list[Tensor]] = [[] for _ in views]
    for indices in torch.split(torch.arange(len(pack)), EVAL_BATCH):
        images = pack.batch(indices).to(stage.device)
        for view, features in zip(views, features_by_view, strict=True):
            pixels = view(images).contiguous(memory_format=torch.channels_last)
            with stage.autocast():
                features.append(encoder(pixels).float())
    return torch.stack([torch.cat(features) for features in features_by_view])
