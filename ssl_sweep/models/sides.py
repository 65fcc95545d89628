"""Images of another size than an encoder is built for: small crops beside large ones."""

import copy

import torch

from ssl_sweep.models.encoder import Encoder


def nearby_side(encoder: Encoder, share: float) -> int:
    """The side in pixels of images that the encoder takes too, nearest to `share` of those that it is built for.

    A copy of the encoder is tried.

    Raises:
        ValueError: it takes no images of that side.
    """
    step = encoder.side_step
    side = max(1, round(share * encoder.image_size / step)) * step
    if side == encoder.image_size:
        return side
    trial, like = copy.deepcopy(encoder).eval(), next(encoder.parameters(), torch.zeros(1))
    try:
        with torch.no_grad():
            trial(like.new_zeros(2, 3, side, side))
    except Exception as error:  # encoders refuse a size by errors of many types
        own = encoder.image_size
        raise ValueError(
            f"it takes images of {own} pixels and none of {side} ({str(error).splitlines()[0]})"
        ) from error
    return side
