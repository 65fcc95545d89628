"""The share of random crops that are enlarged to the size of a view, whose detail is then made up."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ssl_sweep.data.crop import draw_boxes
from ssl_sweep.data.decode import UNREADABLE, upright_size
from ssl_sweep.data.items import ImageList, Source

IMAGES = 64  # whose sizes are read
DRAWS = 4096
USUAL_RATIO = 4 / 3  # of the sides of a photograph, where the images are not at hand


def sizes_of(source: Source) -> Tensor:
    """Height and width (N, 2) int64 of some training images, evenly spread; damaged ones are left out."""
    return torch.tensor(list(_sizes(source.train)), dtype=torch.int64).reshape(-1, 2)


def _sizes(images: ImageList) -> Iterator[tuple[int, int]]:
    for row in range(0, len(images), max(1, len(images) // IMAGES)):
        try:
            with images.image(row) as image:
                yield upright_size(image)
        except UNREADABLE:  # decoding reports it, by `data.on_error`
            continue


def usual_sizes(short_side: int) -> Tensor:
    """The size (1, 2) of a photograph that was shrunk to this short side."""
    return torch.tensor([[short_side, round(short_side * USUAL_RATIO)]])


def enlarged_share(sizes: Tensor, short_side: int | None, image_size: int, scale_min: float, scale_max: float) -> float:
    """Percent of random crops, of images of `sizes` (N, 2) shrunk to `short_side`, with fewer pixels than a view."""
    if short_side is not None:
        shrink = (short_side / sizes.amin(dim=1, keepdim=True)).clamp(max=1)
        sizes = (sizes * shrink).round().long()
    rows = torch.arange(DRAWS) % len(sizes)
    boxes = draw_boxes(sizes[rows], torch.Generator().manual_seed(0), scale_min, scale_max)
    return 100 * float((boxes[:, 2:].prod(dim=1) < image_size**2).double().mean())
