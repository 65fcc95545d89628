"""A split or a fixed subset of it as an encoder's input in evaluations, and its frozen features."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ssl_sweep.data.eval_crop import EvalCrop, cut
from ssl_sweep.data.pack import Pack
from ssl_sweep.training.loop import Stage
from ssl_sweep.trialdir import watchdog

EVAL_BATCH = 512


def fixed_subset(pack: Pack, count: int) -> Pack:
    """At most `count` random images of a split, the same for every seed, so that trials can be compared by them."""
    return pack.subset(torch.randperm(len(pack), generator=torch.Generator().manual_seed(0))[:count])


def batches(pack: Pack, image_size: int, stage: Stage) -> Iterator[tuple[Tensor, Tensor]]:
    """The split in order: centre-cropped images (B, 3, S, S) in [0, 1] and labels (B,), on the stage's device."""
    for indices in torch.split(torch.arange(len(pack)), EVAL_BATCH) if len(pack) else ():
        yield inputs(pack, indices, image_size, stage)
        watchdog.heartbeat()


def inputs(pack: Pack, indices: Tensor, image_size: int, stage: Stage) -> tuple[Tensor, Tensor]:
    """Images `indices` (B,) of the split without augmentation: (B, 3, S, S), channels-last, and their labels (B,).

    They are cropped by `data.eval_crop`, which the pack has; one that was not opened from a spec, by the image size.
    """
    crop = pack.eval_crop or EvalCrop().at(image_size)
    images = cut(pack.batch(indices).to(stage.device), crop)
    return images.contiguous(memory_format=torch.channels_last), pack.labels[indices].to(stage.device)


@torch.no_grad()
def extract(encoder: nn.Module, pack: Pack, image_size: int, stage: Stage) -> tuple[Tensor, Tensor]:
    """Pooled features (N, D) in fp32 and labels (N,) of a split, with the encoder in evaluation mode."""
    encoder.to(stage.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    features, labels = [], []
    for images, targets in batches(pack, image_size, stage):
        with stage.autocast():
            features.append(encoder(images).float())
        labels.append(targets)
    return torch.cat(features), torch.cat(labels)
