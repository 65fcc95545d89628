"""Weighted k-nearest-neighbour classification of frozen features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssl_sweep.data.splits import Splits
from ssl_sweep.models.losses import unit
from ssl_sweep.training.accuracy import RANKS, SCORES, Tally
from ssl_sweep.training.features import extract
from ssl_sweep.training.loop import Stage

QUERY_BATCH = 1024
MAX_COSINES = 2**26  # at once: 256 MB in fp32, whatever the size of the bank


def classify(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, *, ks: Sequence[int], temperature: float
) -> Tensor:
    """The class of each query by the vote of its k nearest in `bank`, for every k: (len(ks), Q) int64; see `rank`."""
    return rank(queries, bank, labels, num_classes, ks=ks, temperature=temperature)[..., 0]


def rank(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, *, ks: Sequence[int], temperature: float
) -> Tensor:
    """Up to five classes of each query by the vote of its k nearest in `bank`, for every k: (len(ks), Q, R) int64.

    The best is first, and -1 stands where no neighbour votes. A neighbour at cosine s has the weight exp(s /
    temperature); of tied classes the first one wins. The cosines are computed once for all k.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.

    Args:
        queries: (Q, D).
        bank: (N, D), and `labels` (N,) their classes in [0, num_classes).
        num_classes: C.
        ks: numbers of neighbours, at most N.
        temperature: above 0.
    """
    counts = [min(k, len(bank)) for k in ks]
    bank = unit(bank)  # fp32 or better: cosines tie in bf16 and scramble neighbours
    rows = min(QUERY_BATCH, max(1, MAX_COSINES // len(bank)))
    winners = []
    for chunk in torch.split(unit(queries), rows):
        cosines, nearest = (chunk @ bank.T).topk(max(counts), dim=1)  # (R, K), the nearest first
        # relative to the nearest, which changes no vote's share; exp(1 / 0.01) alone is infinite in fp32
        weights = ((cosines - cosines[:, :1]) / temperature).exp()
        classes = labels[nearest]  # (R, K)
        empty = weights.new_zeros(len(chunk), num_classes)
        votes = (empty.scatter_add(1, classes[:, :k], weights[:, :k]) for k in counts)  # each (R, C)
        winners.append(torch.stack([_best(vote) for vote in votes]))
    return torch.cat(winners, dim=1)


def _best(vote: Tensor) -> Tensor:
    """The classes (R, RANKS) with the most votes (R, C), the first of equals first; -1 for those without any."""
    weights, classes = vote.sort(dim=1, descending=True, stable=True)
    return torch.where(weights > 0, classes, -1)[:, :RANKS]


def top1(predicted: Tensor, truth: Tensor) -> list[float]:
    """Accuracy in percent of each row of `predicted` (K, Q) against `truth` (Q,)."""
    shares: list[float] = (predicted == truth).double().mean(dim=1).mul(100).tolist()
    return shares


def knn_scores(
    encoder: nn.Module, splits: Splits, stage: Stage, *, ks: Sequence[int], temperature: float
) -> list[dict[str, float]]:
    """`accuracy.SCORES` in percent of the measured splits for every k, by the votes of training images (`rank`)."""
    bank, labels = extract(encoder, splits.train, splits.image_size, stage)
    scores: list[dict[str, float]] = [{} for _ in ks]
    for split, pack in splits.measured.items():
        queries, truth = extract(encoder, pack, splits.image_size, stage)
        tally = Tally(splits.num_classes)
        ranked = rank(queries, bank, labels, splits.num_classes, ks=ks, temperature=temperature)
        tally.add(ranked.transpose(0, 1), truth)
        for own, values in zip(scores, tally.percent().T.tolist(), strict=True):
            own.update({f"{score}_{split}": value for score, value in zip(SCORES, values, strict=True)})
    return scores
