"""DrLIM: a Siamese network maps similar images to close points and others a margin apart."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.nearest import are_nearest, nearest_images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import gather, gather_no_grad, world_size
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.losses import feature_std
from ssl_sweep.models.precision import at_least_fp32, full_precision
from ssl_sweep.models.scatter import colors_of, principal_plane, scatter_plot, separation

EPS = 1e-12  # inside the root, whose slope at 0 is infinite
MEASURED = 64  # images, with all shifts, for the logged separation, which needs every pair
MANY = 200_000  # images, whose distances to each other take hours
SET, BATCH = 5, 1  # neighbours by default: the paper's, of its whole set; fewer than that of a batch


class Method(nn.Module):
    """L = mean over pairs of ½·(1 − Y)·D² + ½·Y·max(0, margin − D)², D = ‖G(x₁) − G(x₂)‖, Y = 0 for similar images.

    G is the encoder: its features are the map. A batch has every image unshifted and shifted sideways by each of
    `shifts`. An image is similar to its own copies, and to those of its nearest neighbours in pixel space or of images
    with its label. Each copy is in one pair with a similar and one with a dissimilar copy, both drawn at random.

    The neighbours are those of the whole training set, as in the paper: found once, by Euclidean distance between
    unshifted images of the input's size. Each image of a batch brings one of its neighbours or itself, drawn at random,
    so that a batch has twice `batch_size` images. With `pairs: neighbours` they are searched in the batch instead.

    *Open*, ours: similarity is symmetric. There are as many similar as dissimilar pairs, where the paper's are all
    others, and the margin is 1.

    Views are whole images, without crops; the paper has no flips either (views.flip 0).

    Source: Hadsell, Chopra & LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", equation 4,
    algorithm 1, section 3.3 (MNIST's 4s and 9s; encoder `drlim` at 32 pixels).
    """

    view_recipe = "drlim"
    num_pictures = 500  # in the map

    def __init__(
        self,
        encoder: Encoder,
        *,
        margin: Annotated[float, Field(gt=0, description="distance beyond which dissimilar images have no loss")] = 1.0,
        shifts: Annotated[
            tuple[int, ...], Field(description="pixels to the right, of further copies of each image; negative: left")
        ] = (-6, -3, 3, 6),
        pairs: Annotated[
            Literal["set_neighbours", "neighbours", "label"],
            Field(
                description="similar images: the nearest in pixel space, of the training set or of the batch; "
                "or those with the same label"
            ),
        ] = "set_neighbours",
        neighbours: Annotated[
            int | None,
            Field(ge=0, description=f"nearest images that are similar; null: {SET} of the set, {BATCH} of a batch"),
        ] = None,
    ) -> None:
        super().__init__()
        if max(map(abs, shifts), default=0) >= encoder.image_size:
            raise ValueError(
                f"drlim: shifts {shifts} are too large for an image of {encoder.image_size} pixels; lower them"
            )
        self.encoder = encoder
        self.margin, self.shifts, self.pairs = margin, (0, *shifts), pairs
        self.neighbours = neighbours if neighbours is not None else SET if pairs == "set_neighbours" else BATCH

    @property
    def _brings_neighbours(self) -> bool:
        """Whether views have a similar image beside each of the batch's; those that are only shown have none."""
        return self.training and self.pairs == "set_neighbours" and self.neighbours > 0

    @staticmethod
    def check_sizes(settings: Mapping[str, Any], batch_size: int, train_images: int | None) -> str | None:
        """A warning where the search for neighbours takes hours."""
        if settings["pairs"] != "set_neighbours" or settings["neighbours"] == 0 or (train_images or 0) <= MANY:
            return None
        return (
            f"pairs: set_neighbours compares each of {train_images:,} images with all others before the first step, "
            "for hours; use 'neighbours' or data.train_images"
        )

    @staticmethod
    def needs_labels(settings: Mapping[str, Any]) -> bool:
        """Pairs by label need them."""
        return bool(settings["pairs"] == "label")

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Copies of N images and their pairs, for T shifts including 0; row t·N + i is image i with shift t.

        N is the batch size B, or 2·B where each image brings a neighbour: that of image i is then image B + i.

        Returns:
            image: (T·N, 3, S, S) in [0, 1].
            similar: (T·N,) row, in the global batch, of a similar copy.
            other: (T·N,) row, in the global batch, of a dissimilar copy if there is one.
            dissimilar: (T·N,) bool, Y of the pair with `other`; false only if the batch has no dissimilar copy.
            label: (N,) if the images have labels; for visualizations and metrics, and for `pairs` label.

        Raises:
            ValueError: `pairs` is label, and the images have no labels; or set_neighbours, and they are of no set.
        """
        if images.shard is not None:  # every worker makes the pairs of the global batch
            return self._local_copies(images, self.views(images.global_batch(), augment, rng))
        if self._brings_neighbours:
            brought, related = self._bring(images, augment.image_size, rng)
            whole = torch.cat([augment.whole(part, rng) for part in (images, brought)])
            mates = torch.arange(len(whole), device=whole.device).roll(len(whole) // 2).repeat(len(self.shifts))
            labels = None if images.labels is None else torch.cat([images.labels, brought.labels])  # type: ignore[list-item]
        else:
            whole, labels, mates = augment.whole(images, rng), images.labels, None
            related = self._related(whole, labels)
        copies = related.repeat(len(self.shifts), 1)  # (T·N, N), of each copy to each image
        similar, other = _draw_true(copies, rng) if mates is None else mates, _draw_true(~copies, rng)
        views = {
            "image": torch.cat([shifted(whole, shift) for shift in self.shifts]),
            "similar": self._draw_copy(similar, rng),
            "other": self._draw_copy(other, rng),
            "dissimilar": ~copies.gather(1, other.unsqueeze(1)).squeeze(1),
        }
        return views if labels is None else views | {"label": labels}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over similar and dissimilar pairs; their mean distances, feature_std, and the labels' separation."""
        points = self.encoder(batch["image"])
        with full_precision(points):
            points = at_least_fp32(points)  # (T·N, D)
            dissimilar = torch.cat([torch.zeros_like(batch["dissimilar"]), batch["dissimilar"]])  # Y, (2·T·N,)
            partners = self._gather_points(points)[torch.cat([batch["similar"], batch["other"]])]
            distance = ((points.repeat(2, 1) - partners).square().sum(dim=1) + EPS).sqrt()
            loss = margin_loss(distance, dissimilar, self.margin)
            return loss, self._scalars(points.detach(), distance.detach(), dissimilar, batch.get("label"))

    @torch.no_grad()
    def visualize(self, batch: dict[str, Tensor]) -> Tensor:
        """Plots (2, 3, H, W) of the copies, by their pixels and by the map: hue for label, darkness for shift.

        More than two dimensions are reduced to the first two principal components.
        """
        count, num_shifts = len(batch["image"]) // len(self.shifts), len(self.shifts)
        labels = batch.get("label", batch["image"].new_zeros(count, dtype=torch.int64))
        kinds, label = torch.unique(labels, return_inverse=True)
        label = torch.where(labels < 0, labels, label)
        rank = torch.tensor([sorted(self.shifts).index(shift) for shift in self.shifts], device=label.device)
        colors = colors_of(label.repeat(num_shifts), rank.repeat_interleave(count), len(kinds), num_shifts)
        planes = (batch["image"].flatten(1), at_least_fp32(self.encoder(batch["image"])))
        return torch.stack([scatter_plot(principal_plane(points), colors) for points in planes])

    @torch.no_grad()
    def visualization_metrics(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The separation of the labels in the map of all copies; empty without labels."""
        if "label" not in batch:
            return {}
        points = at_least_fp32(self.encoder(batch["image"]))
        return {"separation": separation(points, batch["label"].repeat(len(self.shifts)))}

    def _bring(self, images: Images, side: int, rng: Generator) -> tuple[Images, Tensor]:
        """A neighbour of each of B images or the image itself; and which of all these are similar, (2·B, 2·B) bool."""
        if images.whole_set is None or images.indices is None:
            raise ValueError("drlim: pairs is 'set_neighbours', but the images are of no set; use 'neighbours'")
        device = images.pixels.device
        nearest = nearest_images(images.whole_set, side, self.neighbours, device).to(device)
        own = images.indices.unsqueeze(1)
        near = torch.cat([own, nearest[images.indices]], dim=1)  # (B, 1 + neighbours)
        drawn = near.gather(1, torch.randint(near.shape[1], own.shape, generator=rng, device=rng.device)).squeeze(1)
        related = are_nearest(torch.cat([images.indices, drawn]), nearest)
        return images.whole_set.batch(drawn).to(device), related

    @property
    def _parts(self) -> int:
        """How many images a row of the batch stands for."""
        return 2 if self._brings_neighbours else 1

    def _local_copies(self, images: Images, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """A worker's share (T·n, ...) of views (T·N, ...) of the global batch."""
        rows = images.local_rows(torch.arange(images.global_size)).to(views["image"].device)  # (b,)

        def local(x: Tensor) -> Tensor:  # (m·B, ...) -> (m·b, ...)
            return x.view(-1, images.global_size, *x.shape[1:])[:, rows].flatten(0, 1)

        return {name: local(x) for name, x in views.items()}

    def _gather_points(self, points: Tensor) -> Tensor:
        """A worker's points (T·n, D) -> those of all workers (T·N, D), in the order of the global batch's views."""
        blocks = len(self.shifts) * self._parts
        by_rank = gather(points).view(world_size(), blocks, -1, points.shape[1])  # (W, T·parts, b, D)
        return by_rank.transpose(0, 1).flatten(0, 2)

    def _related(self, whole: Tensor, labels: Tensor | None) -> Tensor:
        """Whether images are similar, (N, N) bool; true for an image and itself."""
        if self.pairs == "set_neighbours":  # of those that are only shown, and with `neighbours` 0
            return torch.eye(len(whole), dtype=torch.bool, device=whole.device)
        if self.pairs == "neighbours":
            return nearest(whole.flatten(1), self.neighbours)
        if labels is None:
            raise ValueError("drlim: pairs is 'label', but the images have no labels; use 'set_neighbours'")
        same = (labels.unsqueeze(1) == labels) & (labels >= 0)  # -1: an image without a label
        return same.fill_diagonal_(True)

    def _draw_copy(self, images: Tensor, rng: Generator) -> Tensor:
        """The row of a random copy of each of `images` (T·N,)."""
        count = len(images) // len(self.shifts)
        return images + count * torch.randint(len(self.shifts), images.shape, generator=rng, device=rng.device)

    def _scalars(
        self, points: Tensor, distance: Tensor, dissimilar: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Scalars of the whole batch, of a worker's points (T·n, D), distance and dissimilar (2·T·n,), labels (n,)."""
        distance, dissimilar, points = gather_no_grad(distance), gather_no_grad(dissimilar), self._gather_points(points)
        scalars = {
            "similar_distance": _mean_where(distance, ~dissimilar),
            "dissimilar_distance": _mean_where(distance, dissimilar),
            "feature_std": feature_std(points),
        }
        if labels is not None:
            labels = gather_no_grad(labels).view(world_size(), self._parts, -1).transpose(0, 1).flatten()
            measured = points.view(len(self.shifts), len(labels), -1)[:, :MEASURED].flatten(0, 1)
            scalars["separation"] = separation(measured, labels[:MEASURED].repeat(len(self.shifts)))
        return scalars


def margin_loss(distance: Tensor, dissimilar: Tensor, margin: float) -> Tensor:
    """Mean of ½·(1 − Y)·D² + ½·Y·max(0, margin − D)² over pairs: D (P,), Y (P,) bool."""
    return torch.where(dissimilar, F.relu(margin - distance), distance).square().mean() / 2


def shifted(images: Tensor, shift: int) -> Tensor:
    """Move images (B, 3, S, S) right by `shift` pixels, or left if it is negative; fill with black."""
    return F.pad(images, (shift, -shift))


def nearest(points: Tensor, count: int) -> Tensor:
    """Pairs of points (B, D), one among the `count` nearest of the other: (B, B) bool, true on the diagonal."""
    with full_precision(points):
        distances = torch.cdist(points, points).fill_diagonal_(-1)  # each is its own nearest, also before duplicates
    neighbours = distances.topk(min(count + 1, len(points)), dim=1, largest=False).indices
    related = torch.zeros_like(distances, dtype=torch.bool).scatter_(1, neighbours, True)
    return related | related.T


def _draw_true(allowed: Tensor, rng: Generator) -> Tensor:
    """A random true column of each row of `allowed` (R, C); any column if none is true."""
    scores = torch.rand(allowed.shape, generator=rng, device=rng.device)
    return (scores + allowed).argmax(dim=1)


def _mean_where(x: Tensor, chosen: Tensor) -> Tensor:
    return (x * chosen).sum() / chosen.sum().clamp(min=1)
