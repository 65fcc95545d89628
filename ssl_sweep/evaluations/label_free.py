"""The quality of frozen features without labels; a search can use these metrics as its objective."""

from functools import partial
from typing import Annotated

from pydantic import Field
from torch import nn

from ssl_sweep.data.splits import Splits
from ssl_sweep.data.views import Augment
from ssl_sweep.models.representation import alignment, effective_rank, lidar, spectral_decay, uniformity
from ssl_sweep.training.features import extract, fixed_subset
from ssl_sweep.training.loop import Stage
from ssl_sweep.training.view_features import view_features

NAMES = ("rankme", "alpha", "alpha_r2", "uniformity", "lidar", "alignment")
METRICS = tuple(f"{name}_{split}" for split in ("val", "test") for name in NAMES)
NEEDS_LABELS = False
CHECK = {"knobs": {"view_images": 50, "views": 3}}  # suits 160 images


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    images: Annotated[
        int, Field(ge=2, description="maximum number of images of a split for rankme, alpha and uniformity")
    ] = 5000,
    alpha_eigenvalues: Annotated[
        int | None,
        Field(ge=2, description="number of largest eigenvalues that alpha is fitted to; null: all above rounding"),
    ] = None,
    view_images: Annotated[
        int,
        Field(ge=2, description="maximum number of images of a split for lidar and alignment; use more than features"),
    ] = 1000,
    views: Annotated[int, Field(ge=2, description="random views of each of these images; LiDAR's paper uses 50")] = 10,
    crop_scale_min: Annotated[float, Field(gt=0, le=1, description="views: smallest crop, share of the area")] = 0.2,
    color_strength: Annotated[
        float,
        Field(ge=0, le=1, description="views: SimCLR's s, jitter by 0.8 s, 0.8 s, 0.8 s, 0.2 s; MoCo-v2's is 0.5"),
    ] = 0.5,
    gray: Annotated[float, Field(ge=0, le=1, description="views: probability of removing the colour")] = 0.2,
) -> dict[str, float]:
    """Rank, spectrum and geometry of features, on images that are the same in every trial of a sweep.

    On centre crops, with singular values σ, and eigenvalues λ_1 ≥ λ_2 ≥ … of the covariance:
    `rankme`: exp(−Σ p log p), p = σ / Σσ + 1e-7 (Garrido et al. 2023). Higher is better, within one method.
    `alpha`: −slope of log λ_i on log i, and `alpha_r2`: the fit of that line (α-ReQ, Agrawal et al. 2022). Its authors
    find values near 1 best, so that it has no direction. Not a number where the features have collapsed.
    `uniformity`: log mean exp(−2‖x − y‖²) over pairs of images (Wang & Isola 2020). Lower is better, at equal
    alignment.

    On random views, of one kind for all trials:
    `lidar`: the rank of Σ_w^(−1/2) Σ_b Σ_w^(−1/2), defined as for rankme; Σ_b between images, Σ_w among the views of an
    image (Thilak et al. 2023). Higher is better.
    `alignment`: mean ‖x − y‖² over pairs of views of an image (Wang & Isola 2020). Lower is better, at equal
    uniformity: features that have collapsed to a point are aligned best.

    All depend on the number of images: compare splits of one size only. More in `models.representation`.
    """
    s = color_strength
    augment = Augment(
        splits.image_size,
        crop_scale_min=crop_scale_min,
        brightness=0.8 * s,
        contrast=0.8 * s,
        saturation=0.8 * s,
        hue=0.2 * s,
        gray=gray,
    )
    results: dict[str, float] = {}
    for split, pack in splits.measured.items():
        features, _ = extract(encoder, fixed_subset(pack, images), splits.image_size, stage)
        random_views = [partial(augment.view, rng=stage.generator("views", split))] * views
        viewed = view_features(encoder, fixed_subset(pack, view_images), random_views, stage)  # (V, N, D)
        alpha, alpha_r2 = spectral_decay(features, alpha_eigenvalues)
        measured = (effective_rank(features), alpha, alpha_r2, uniformity(features), lidar(viewed), alignment(viewed))
        results |= {f"{name}_{split}": value for name, value in zip(NAMES, measured, strict=True)}
    stage.report(results, 1)
    return results
