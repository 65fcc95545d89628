"""Losses that several methods share, over the global batch: where other images matter, all ranks' are gathered.

They compute in fp32 or better, whatever the autocast, and return the loss with scalars to log.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_sweep.models.distributed import gather, gather_no_grad, rank
from ssl_sweep.models.precision import at_least_fp32, full_precision

Term = tuple[Tensor, dict[str, Tensor]]  # a scalar loss, and detached scalars by name


def unit(x: Tensor) -> Tensor:
    """Rows of (B, D) scaled to length 1, in fp32 or better."""
    return F.normalize(at_least_fp32(x), dim=1)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity of each pair of rows, (B, D) and (B, D) -> (B,), in fp32 or better."""
    return (unit(first) * unit(second)).sum(dim=1)


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Term:
    """Mean over the queries of −log(exp(q·k/τ) / (exp(q·k/τ) + Σ_n exp(q·n/τ))).

    Source: He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", equation 1.

    Args:
        query: (B, D), and `key` (B, D) its positives, rows of length 1.
        negatives: (K, D), of length 1, the same for all queries.
        temperature: τ.
    """
    with full_precision(query):
        positive = (query * key).sum(dim=1, keepdim=True)  # (B, 1)
        negative = query @ negatives.T  # (B, K)
        logits = torch.cat([positive, negative], dim=1) / temperature  # (B, 1 + K)
        loss = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
    return loss, _similarities(positive.mean(), negative.mean())


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Term:
    """Mean over both views of all images of −log(exp(z_i·z_j/τ) / Σ_{k≠i} exp(z_i·z_k/τ)), j the other view of i.

    k runs over both views of the global batch; the gradient reaches the other ranks' projections too.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", equation 1.

    Args:
        first: projections (B, D) of one view, and `second` (B, D) of the other, rows of length 1.
        temperature: τ.
    """
    with full_precision(first):
        projections = torch.cat([gather(first), gather(second)])  # (2·W·B, D)
        similarity = torch.cat([first, second]) @ projections.T  # (2B, 2·W·B)
        rows = len(first) * rank() + torch.arange(len(first), device=first.device)
        first_columns, second_columns = rows, rows + len(projections) // 2  # (B,) each
        selves = torch.cat([first_columns, second_columns])  # (2B,) columns
        partners = torch.cat([second_columns, first_columns])
        logits = (similarity / temperature).scatter(1, selves.unsqueeze(1), -torch.inf)
        loss = F.cross_entropy(logits, partners)
    positive = similarity.gather(1, partners.unsqueeze(1))  # (2B, 1)
    rest = similarity.sum() - positive.sum() - similarity.gather(1, selves.unsqueeze(1)).sum()
    num_negatives = len(similarity) * (len(projections) - 2)
    return loss, _similarities(positive.mean(), rest / max(num_negatives, 1))


def add(terms: Sequence[Term]) -> Term:
    """The sum of the losses and the means of their scalars, whose names are the same in all terms."""
    losses, scalars = zip(*terms, strict=True)
    means = {name: torch.stack([term[name] for term in scalars]).mean() for name in scalars[0]}
    return torch.stack(losses).sum(), means


@torch.no_grad()
def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of the L2-normalised rows of (B, D), mean over the D, times √D: 0 collapsed, 1 spread out.

    Source: Chen & He 2021, "Exploring Simple Siamese Representation Learning", section 4.1 (there without the √D).
    """
    return unit(features).std(dim=0, correction=0).mean() * math.sqrt(features.shape[1])


def global_feature_std(features: Tensor) -> Tensor:
    """`feature_std` of the rows of all ranks; a collective, so that every rank must call it."""
    return feature_std(gather_no_grad(features))


def _similarities(positive: Tensor, negative: Tensor) -> dict[str, Tensor]:
    return {"positive_similarity": positive.detach(), "negative_similarity": negative.detach()}


def cross_view_loss(logits: list[Tensor], targets: Tensor) -> Tensor:
    """Mean cross-entropy −Σ_k q(k) log p(k) over the pairs of a target's view and another view of the same image.

    Args:
        logits: (B, K) of each view, those that have targets first.
        targets: probabilities (T, B, K) of the first T views.
    """
    terms = [
        -(probabilities * each.log_softmax(dim=1)).sum(dim=1).mean()
        for target, probabilities in enumerate(targets)
        for view, each in enumerate(logits)
        if view != target
    ]
    return torch.stack(terms).mean()


def relative_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of distributions (..., K) divided by log K: 1 for uniform, 0 for one-hot."""
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return entropy / math.log(probabilities.shape[-1])
