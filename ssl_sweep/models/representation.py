"""Label-free measures of features: rank, spectrum, alignment and uniformity."""

import math
from itertools import combinations

import torch
from torch import Tensor

from ssl_sweep.models.losses import unit
from ssl_sweep.models.precision import at_least_fp32

RANK_EPS = 1e-7
RIDGE = 1e-4
ROUNDING = 1e-12  # times the mean square: the variance of rounding to fp32, (1e-7)², with a margin
PAIR_BATCH = 1024


def effective_rank(features: Tensor) -> float:
    """exp(−Σ p_k log p_k), p_k = σ_k / Σσ + 1e-7, σ the singular values of uncentred features (N, D): 1 to min(N, D).

    Source: Garrido et al. 2023, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
    Representations by Their Rank", equation 1. Comparable only within one method, data set and N.
    """
    return _smooth_rank(torch.linalg.svdvals(at_least_fp32(features)))


def spectral_decay(features: Tensor, count: int | None = None) -> tuple[float, float]:
    """α and R² of the line c − α·log i through log λ_i, by least squares; λ_1 ≥ λ_2 ≥ … of the covariance of (N, D).

    The fit uses the first `count` eigenvalues, or all, that are above rounding. If fewer than two are, the features
    have collapsed, and both results are NaN.

    Source: Agrawal et al. 2022, "α-ReQ: Assessing Representation Quality in Self-Supervised Learning by measuring
    eigenspectrum decay". The paper fits all eigenvalues; its code numbers 4 to 100, weighted by 1 / i.
    """
    x = features.double()
    centered = x - x.mean(dim=0)
    gram = centered @ centered.T if len(x) < x.shape[1] else centered.T @ centered  # the smaller of two with the same λ
    values = torch.linalg.eigvalsh(gram).flip(0) / (len(x) - 1)
    sound = values[values > ROUNDING * x.square().mean()][:count]
    if len(sound) < 2:
        return math.nan, math.nan
    log_value = sound.log()
    log_index = torch.arange(1, 1 + len(sound), dtype=sound.dtype, device=sound.device).log()
    y, t = log_value - log_value.mean(), log_index - log_index.mean()
    slope = (t @ y) / (t @ t)
    return -float(slope), float(1 - (y - slope * t).square().sum() / y.square().sum())


def lidar(views: Tensor) -> float:
    """Effective rank of Σ_w^(−1/2) Σ_b Σ_w^(−1/2), features (V, N, D) of V ≥ 2 views of N ≥ 2 images: 1 to D, below N.

    Σ_b is the covariance of the images' mean features, Σ_w the mean over images of the covariance of an image's views,
    plus δI. The rank is that of `effective_rank`, of the eigenvalues.

    Source: Thilak et al. 2023, "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures",
    section 3, equations 1 to 4. There δ is a small constant; here it is 1e-4 of the mean variance, so that the value
    does not depend on the features' scale. Comparable only at equal V, N and D.
    """
    count, images, dim = views.shape
    centers = views.double().mean(dim=0)  # (N, D)
    deviations = centers - centers.mean(dim=0)
    between = deviations.T @ deviations / (images - 1)
    within = torch.zeros_like(between)
    for view in views:  # one by one: all views in float64 may not fit
        spread = view.double() - centers
        within += spread.T @ spread / (images * (count - 1))
    scale = (between + within).diagonal().mean()
    if scale <= ROUNDING * views.square().mean():  # collapsed: the rest is rounding, which would have a rank too
        return 1.0
    ridge = torch.eye(dim, dtype=within.dtype, device=within.device) * RIDGE * scale
    # L⁻¹ Σ_b L⁻ᵀ with Σ_w = L Lᵀ has the eigenvalues of the symmetric form
    factor = torch.linalg.cholesky(within + ridge)
    half = torch.linalg.solve_triangular(factor, deviations.T, upper=False)  # (D, N)
    return _smooth_rank(torch.linalg.eigvalsh(half @ half.T).clamp(min=0))


def alignment(views: Tensor) -> float:
    """Mean ‖x − y‖² of L2-normalised features (V, N, D) over all pairs of views of an image: 0 to 4.

    Source: Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", section 4.1, α = 2.
    """
    pairs = list(combinations((unit(view) for view in views), 2))
    return sum(float((x - y).square().sum(dim=1).mean()) for x, y in pairs) / len(pairs)


def uniformity(features: Tensor) -> float:
    """log mean exp(−2‖x − y‖²) over all pairs of L2-normalised features (N, D): 0 if equal, −4 if orthogonal.

    A uniform distribution on the sphere approaches −4 as D grows. NaN if N is 1.

    Source: Wang & Isola 2020, section 4.1, t = 2; there for augmented views, here for centre crops.
    """
    x = unit(features)
    lengths = x.square().sum(dim=1)  # 1, or 0 for an all-zero feature
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for begin in range(0, len(x), PAIR_BATCH):
        rows = slice(begin, begin + PAIR_BATCH)
        squared = lengths[rows, None] + lengths[begin:] - 2 * x[rows] @ x[begin:].T  # (rows, N − begin)
        total += squared.clamp(min=0).mul(-2).exp().triu(1).sum()  # each pair once
    return float((total / (len(x) * (len(x) - 1) / 2)).log())


def _smooth_rank(values: Tensor) -> float:
    """exp of the entropy of `values` (K,) ≥ 0 as shares of their sum; 1 if all are 0."""
    p = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + RANK_EPS
    return float((-(p * p.log()).sum()).exp())
