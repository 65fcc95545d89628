"""Weighted k-nearest-neighbour classification of frozen features."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_sweep.classifier import METRICS
from ssl_sweep.data.splits import Splits
from ssl_sweep.features import extract
from ssl_sweep.training import Stage

__all__ = ["METRICS", "evaluate", "knn_votes"]

QUERY_BATCH = 1024


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    k: Annotated[int, Field(ge=1, description="neighbours that vote (at most the training set)")] = 20,
    temperature: Annotated[float, Field(gt=0, description="a neighbour at cosine s votes with exp(s / t)")] = 0.1,
) -> dict[str, float]:
    """Top-1 in percent by the vote of the k nearest training images (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Nothing is trained, so that there are no epochs: the best is the only value.
    """
    bank, labels = extract(encoder, splits.train, splits.image_size, stage)
    metrics: dict[str, float] = {}
    for split, pack in (("val", splits.val), ("test", splits.test)):
        queries, truth = extract(encoder, pack, splits.image_size, stage)
        votes = knn_votes(queries, bank, labels, splits.num_classes, k=k, temperature=temperature)
        accuracy = 100.0 * float((votes.argmax(dim=1) == truth).double().mean())
        metrics |= {f"top1_{split}": accuracy, f"top1_best_{split}": accuracy}
    stage.report(metrics, 1)
    return metrics


def knn_votes(queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, *, k: int, temperature: float) -> Tensor:
    """Weight of each class among the k nearest of `bank`: queries (Q, D), bank (N, D), labels (N,) -> (Q, classes)."""
    k = min(k, len(bank))
    bank = F.normalize(bank.float(), dim=1)  # fp32: cosines tie in bf16 and scramble neighbours
    votes = []
    for chunk in torch.split(F.normalize(queries.float(), dim=1), QUERY_BATCH):
        cosines, nearest = (chunk @ bank.T).topk(k, dim=1)  # (Q, k)
        weights = (cosines / temperature).exp()
        empty = torch.zeros(len(chunk), num_classes, device=weights.device)
        votes.append(empty.scatter_add_(1, labels[nearest], weights))
    return torch.cat(votes)
