"""Images that show an encoder's features: neighbours of some test images, and a map of the test set.

They show the same images in every trial, so that trials can be compared by eye.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid, save_image

from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Splits
from ssl_sweep.models.losses import unit
from ssl_sweep.models.scatter import colors_of, principal_plane, scatter_plot
from ssl_sweep.training.features import extract, fixed_subset, inputs
from ssl_sweep.training.loop import Stage
from ssl_sweep.trialdir.atomic import write_text

IMAGES = 500  # maximum number of test images
QUERIES, NEIGHBOURS = 8, 6
TILE = 64  # approximate side of an image in the grid, in pixels
FRAME = 3  # pixels
# blue and vermilion of Okabe & Ito's palette: distinct for colour-blind readers, and in print by their darkness
SAME, OTHER, QUERY = (0.0, 0.45, 0.70), (0.84, 0.37, 0.0), (1.0, 1.0, 1.0)


def gallery(encoder: nn.Module, splits: Splits, stage: Stage, folder: Path) -> list[Path]:
    """Write images of an encoder's features of test images into `folder` and return their paths.

    `neighbours.png` has one query per row, then its nearest test images by cosine, framed by whether they have its
    class (SAME) or not (OTHER), if both have a label. `map.png` shows the first two principal components, coloured by
    class; `map.json` has their numbers: `points` [[x, y], ...], `labels` (-1 for none) and the names of the `classes`.
    Nothing is written if a feature is not finite.
    """
    pack = fixed_subset(splits.test, IMAGES)
    features, labels = (x.cpu() for x in extract(encoder, pack, splits.image_size, stage))  # (N, D), (N,)
    if not bool(features.isfinite().all()):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    points = principal_plane(features)  # (N, 2)
    colors = colors_of(labels, torch.zeros_like(labels), splits.num_classes, 1)  # (N, 3)
    save_image(scatter_plot(points, colors), folder / "map.png")
    write_text(folder / "map.json", _numbers(points, labels, pack.classes))
    written = ["map.png", "map.json"]
    if len(pack) > 1:
        rows = nearest(features)  # (Q, 1 + K)
        save_image(_grid(pack, rows, splits.image_size, stage), folder / "neighbours.png")
        written.append("neighbours.png")
    return [folder / name for name in written]


def nearest(features: Tensor) -> Tensor:
    """The first rows of (N, D), each with the rows of its nearest others by cosine: (Q, 1 + K) int64."""
    unit_length = unit(features.float())
    cosines = unit_length[:QUERIES] @ unit_length.T  # (Q, N)
    queries = torch.arange(len(cosines))
    cosines[queries, queries] = -torch.inf
    neighbours = cosines.topk(min(NEIGHBOURS, len(features) - 1), dim=1).indices
    return torch.cat([queries.unsqueeze(1), neighbours], dim=1)


def _grid(pack: Pack, rows: Tensor, image_size: int, stage: Stage) -> Tensor:
    """Framed images of `rows` (Q, 1 + K), the queries in the first column: (3, H, W)."""
    images, labels = inputs(pack, rows.flatten(), image_size, stage)
    tiles = _tiles(images.float().cpu())  # (Q·(1 + K), 3, T, T)
    truth = labels.cpu().view_as(rows)
    frames = torch.where((truth == truth[:, :1]).unsqueeze(2), torch.tensor(SAME), torch.tensor(OTHER))  # (Q, 1 + K, 3)
    frames[(truth < 0) | (truth[:, :1] < 0)] = torch.tensor(QUERY)  # without a label, nothing is known
    frames[:, 0] = torch.tensor(QUERY)
    framed = frames.reshape(-1, 3, 1, 1).repeat(1, 1, tiles.shape[2] + 2 * FRAME, tiles.shape[3] + 2 * FRAME)
    framed[:, :, FRAME:-FRAME, FRAME:-FRAME] = tiles
    return make_grid(framed, nrow=rows.shape[1], padding=4, pad_value=1.0)


def _tiles(images: Tensor) -> Tensor:
    """Images (B, 3, S, S) as tiles: small ones enlarged by a whole factor, so that their pixels stay sharp."""
    factor = TILE // images.shape[2]
    if factor >= 1:
        return F.interpolate(images, scale_factor=factor, mode="nearest")
    return F.interpolate(images, size=(TILE, TILE), mode="bilinear", antialias=True, align_corners=False)


def _numbers(points: Tensor, labels: Tensor, classes: tuple[str, ...]) -> str:
    rounded = [[float(f"{value:.4g}") for value in point] for point in points.tolist()]
    return json.dumps({"points": rounded, "labels": labels.tolist(), "classes": list(classes)})
