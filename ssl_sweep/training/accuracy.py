"""Top-1, top-5 and the mean per-class accuracy of ranked classes."""

import torch
from torch import Tensor

SCORES = ("top1", "top5", "mean_per_class")
RANKS = 5


class Tally:
    """Counts right answers, batch by batch; several heads are counted at once."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._counts: list[Tensor] | None = None  # right at rank 1 and up to rank 5 (C, K), and images (C, 1) by class

    def add(self, ranked: Tensor, labels: Tensor) -> None:
        """Count the classes ranked (B, K, R) of K heads, the best first, -1 for none, against labels (B,)."""
        right = ranked == labels.view(-1, 1, 1)
        each = right[..., 0], right.any(dim=-1), torch.ones_like(right[:, :1, 0])
        counts = [x.new_zeros(self._num_classes, x.shape[1], dtype=torch.float64) for x in each]
        for total, x in zip(counts, each, strict=True):
            total.index_add_(0, labels, x.double())
        known = self._counts
        self._counts = counts if known is None else [a + b for a, b in zip(known, counts, strict=True)]

    def percent(self) -> Tensor:
        """`SCORES` of each head: (3, K) float64 on the CPU; not a number, (3, 1), without images.

        The mean per-class accuracy is over the classes that have an image: each counts the same, however many it has.
        """
        if self._counts is None:
            return torch.full((len(SCORES), 1), torch.nan, dtype=torch.float64)
        first, five, images = (count.cpu() for count in self._counts)
        there = images[:, 0] > 0
        by_class = (first[there] / images[there]).mean(dim=0)
        return 100 * torch.stack([first.sum(dim=0) / images.sum(), five.sum(dim=0) / images.sum(), by_class])


def ranked_by(logits: Tensor) -> Tensor:
    """The best classes (B, K, R) of logits (B, K, C), -1 where a logit is not finite: a diverged head is wrong."""
    best = logits.topk(min(RANKS, logits.shape[-1]), dim=-1).indices
    best[..., 0] = logits.argmax(dim=-1)  # the first of equals, whatever `topk` takes
    return torch.where(logits.isfinite().all(dim=-1, keepdim=True), best, -1)
