"""A supervised head on a body, and its scores by split, kept with its weights so that a resumed run knows its best."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

METRICS = ("top1_val", "top1_test", "top1_best_val", "top1_best_test")
Batches = Iterable[tuple[Tensor, Tensor]]


class Classifier(nn.Module):
    """`body` maps inputs (B, ...) to features (B, D); the head is linear."""

    last: Tensor
    best: Tensor

    def __init__(self, body: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(feature_dim, num_classes)
        # float64: top-1 of the last and of the best epoch, for (validation, test)
        self.register_buffer("last", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("best", torch.zeros(2, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.head(self.body(inputs))
        return logits

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy, the softmax in fp32."""
        return F.cross_entropy(self(inputs).float(), labels)

    def score(self, val: Batches, test: Batches) -> dict[str, float]:
        """Measure both splits in evaluation mode, remember the best of each, and return all four metrics."""
        self.eval()
        for index, split in enumerate((val, test)):
            self.last[index] = self._top1(split)
        self.best.copy_(torch.maximum(self.best, self.last))
        return self.results()

    def results(self) -> dict[str, float]:
        """`METRICS` in percent, as last measured."""
        values = (*self.last.tolist(), *self.best.tolist())
        return dict(zip(METRICS, values, strict=True))

    @torch.no_grad()
    def _top1(self, split: Batches) -> float:
        right = total = 0
        for inputs, labels in split:
            right += int((self(inputs).argmax(dim=1) == labels).sum())
            total += len(labels)
        return 100.0 * right / total
