"""Small crops beside the views of an image, for methods that learn from both (Caron et al. 2020, arXiv:2006.09882)."""

from dataclasses import replace

from torch import Generator, Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment

SIDE = 96 / 224  # of a local crop over that of a global one, in SwAV's and DINO's recipes


def local_augment(
    augment: Augment, side: int, scale: tuple[float, float], *, blur: float | None, solarize: float | None
) -> Augment:
    """The views of local crops: those of `augment`, of `side` pixels, without its mask.

    Args:
        augment: of the global crops.
        side: in pixels.
        scale: smallest and largest share of the image's area that a crop covers.
        blur: probability, where global crops are blurred at all; None: that of first views.
        solarize: probability; None: that of first views.
    """
    low, high = scale
    blurs = augment.blur > 0 or bool(augment.blur_second)
    return replace(
        augment,
        image_size=side,
        crop_scale_min=low,
        crop_scale_max=high,
        blur=augment.blur if blur is None else blur if blurs else 0.0,
        solarize=augment.solarize if solarize is None else solarize,
        mask_ratio=augment.mask_ratio if side == augment.image_size else 0.0,  # its patches need not tile a small crop
    )


def local_views(images: Images, local: Augment, count: int, rng: Generator) -> dict[str, Tensor]:
    """`count` views `local0`, `local1`, ... (B, 3, s, s) in [0, 1] of every image."""
    return {f"local{number}": local.view(images, rng) for number in range(count)}
