"""Coresets for self-supervised learning: which images to pretrain on, by their features.

Each function scores or picks rows of unit features; `choose` is what a trial calls. The answer is the same for the same
features, settings and seed.
"""

import torch
from torch import Tensor

from ssl_sweep.data.subset import Subset
from ssl_sweep.models.losses import unit
from ssl_sweep.training.kmeans import assign, kmeans
from ssl_sweep.trialdir import watchdog

MAX_COSINES = 2**26  # at once: 256 MB in fp32, whatever the size of a cluster


def choose(subset: Subset, count: int, features: Tensor | None, labels: Tensor, seed: int) -> Tensor:
    """The rows, ascending, of the images that a subset keeps of `count`.

    Args:
        subset: the section of the spec.
        count: number N of images.
        features: (N, D), where the method needs them (`Subset.needs_features`).
        labels: (N,), all of them known where SAS takes them for its classes.
        seed: of the draw, and of k-means.
    """
    size, rng = subset.size_of(count), torch.Generator().manual_seed(seed)
    if features is None:
        return torch.randperm(count, generator=rng)[:size].sort().values
    z = unit(features)
    clusters = kmeans(z, subset.clusters, rng)[1] if subset.needs_clusters else labels.to(z.device)
    if subset.method == "sas":
        rows = sas(z, clusters, count if size is None else size)
    elif subset.method == "prototypes":
        rows = prototypes(z, clusters, subset.prefer == "hard").argsort(stable=True)[:size]
    else:
        likeness = nearest_before(z, clusters)
        kept = likeness.argsort(stable=True)[:size]
        rows = kept if subset.threshold is None else (likeness <= subset.threshold).nonzero().flatten()
    return rows.cpu().sort().values


def prototypes(z: Tensor, clusters: Tensor, hard: bool) -> Tensor:
    """Rank of each row (N,), lower to be kept first: by the distance to the centre of its cluster; hard: the farthest.

    Source: Sorscher et al. 2022, "Beyond neural scaling laws", section "self-supervised metric", with distances in
    place of cosines to a centre, which for unit features are of the same order inside a cluster.
    """
    distances = torch.zeros(len(z), device=z.device)
    for cluster in range(int(clusters.max()) + 1):
        rows = (clusters == cluster).nonzero().flatten()
        if len(rows):
            distances[rows] = assign(z[rows], z[rows].mean(0, keepdim=True))[0]
    return -distances if hard else distances


def nearest_before(z: Tensor, clusters: Tensor) -> Tensor:
    """Highest cosine (N,) of each row with those of its cluster that come before it; -2 for the first of a cluster.

    They come in the order of their cosine to the cluster's centre, the lowest first: of near duplicates the one that
    is least like the others stays.

    Source: Abbas et al. 2023, "SemDeDup", algorithm 1.
    """
    likeness = torch.full((len(z),), -2.0, device=z.device)
    for cluster in range(int(clusters.max()) + 1):
        rows = (clusters == cluster).nonzero().flatten()
        if not len(rows):
            continue
        members = z[rows]
        order = (members @ unit(members.mean(0, keepdim=True))[0]).argsort(stable=True)
        rows, members = rows[order], members[order]
        step = max(1, MAX_COSINES // len(rows))
        for begin in range(0, len(rows), step):
            cosines = members[begin : begin + step] @ members.T  # (B, n)
            before = torch.arange(len(rows), device=z.device)
            cosines[before >= begin + torch.arange(len(cosines), device=z.device).unsqueeze(1)] = -2.0
            likeness[rows[begin : begin + step]] = cosines.amax(1)
        watchdog.heartbeat()
    return likeness


def sas(z: Tensor, classes: Tensor, size: int) -> Tensor:
    """Rows (size,) that are most similar to the rest of their class: each class keeps its share.

    Greedy maximisation, class by class, of the sum of cosines between the rows that are kept and those that are not, a
    submodular function. Source: Joshi & Mirzasoleiman 2023, "Data-Efficient Contrastive Self-supervised Learning",
    section 4. Features of whole images stand for the expectation over their augmented views.
    """
    counts = torch.bincount(classes)
    picked = []
    for number, quota in enumerate(shares(counts.cpu(), size).tolist()):
        if quota:
            rows = (classes == number).nonzero().flatten()
            picked.append(rows[most_similar(z[rows], quota)])
            watchdog.heartbeat()
    return torch.cat(picked)


def most_similar(z: Tensor, size: int) -> Tensor:
    """Rows (size,) of z (n, D), by greedy maximisation of the sum of z_i·z_j over kept i and other j."""
    # adding e gains its similarity to the rest, and loses that to the rows which are kept already
    gains = z @ z.sum(0) - z.square().sum(1)
    picked = torch.empty(size, dtype=torch.long, device=z.device)
    for i in range(size):
        picked[i] = best = gains.argmax()
        gains -= 2 * (z @ z[best])
        gains[best] = -torch.inf
    return picked


def shares(counts: Tensor, total: int) -> Tensor:
    """`total` rows divided among classes of these sizes (C,), by largest remainder; of equal ones the first."""
    exact = counts.double() * total / int(counts.sum())
    whole = exact.floor().long()
    missing = total - int(whole.sum())
    whole[(whole - exact).argsort(stable=True)[:missing]] += 1
    return whole
