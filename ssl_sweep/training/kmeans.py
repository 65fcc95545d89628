"""k-means of features with torch: the same clusters for the same features and seed."""

import torch
from torch import Tensor

from ssl_sweep.trialdir import watchdog

MAX_ROUNDS = 100
ROWS = 2**16  # at a time, so that distances to a thousand centres take 256 MB


def kmeans(x: Tensor, k: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cluster the rows of x (N, D) by Lloyd's algorithm from the centres of k-means++ (Arthur & Vassilvitskii 2007).

    A cluster that loses all its rows begins again at the row that is farthest from its centre.

    Args:
        x: in fp32 or better, on any device.
        k: the number of clusters; at most N are made.
        rng: on the CPU.

    Returns:
        Centres (K, D), and the cluster (N,) of each row.
    """
    centres = _spread(x, min(k, len(x)), rng)
    distances, nearest = assign(x, centres)
    for _ in range(MAX_ROUNDS):
        centres = _means(x, nearest, centres, distances)
        before, (distances, nearest) = nearest, assign(x, centres)
        watchdog.heartbeat()
        if torch.equal(nearest, before):
            break
    return centres, nearest


def assign(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance (N,) of each row of x to its nearest centre, and that centre (N,); of equal ones the first."""
    found = [_squared(rows, centres).min(dim=1) for rows in torch.split(x, ROWS)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def _spread(x: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """k rows, each drawn with a probability in proportion to its squared distance to those before: (k, D)."""
    chosen = [int(torch.randint(len(x), (1,), generator=rng))]
    distances = assign(x, x[chosen])[0]
    while len(chosen) < k:
        # not torch.multinomial, which takes 2^24 rows at most
        heap = distances.double().cpu().cumsum(0)
        drawn = torch.rand(1, dtype=torch.float64, generator=rng) * heap[-1]
        row = int(torch.searchsorted(heap, drawn, right=True).clamp(max=len(x) - 1))
        chosen.append(row)
        distances = torch.minimum(distances, assign(x, x[row : row + 1])[0])
        watchdog.heartbeat()
    return x[chosen]


def _means(x: Tensor, nearest: Tensor, centres: Tensor, distances: Tensor) -> Tensor:
    sums, counts = torch.zeros_like(centres), torch.zeros(len(centres), device=x.device, dtype=x.dtype)
    for rows, clusters in zip(torch.split(x, ROWS), torch.split(nearest, ROWS), strict=True):
        # a product, as adding by index has another order, and so other rounding, in each run on a GPU
        belongs = torch.nn.functional.one_hot(clusters, len(centres)).to(x.dtype)  # (B, K)
        sums, counts = sums + belongs.T @ rows, counts + belongs.sum(0)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    if len(empty := (counts == 0).nonzero().flatten()):
        means[empty] = x[distances.argsort(descending=True, stable=True)[: len(empty)]]
    return means


def _squared(x: Tensor, centres: Tensor) -> Tensor:
    """(N, K) squared distances."""
    products = x @ centres.T
    return (x.square().sum(1, keepdim=True) - 2 * products + centres.square().sum(1)).clamp(min=0)
