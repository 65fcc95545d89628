"""DrLIM: a Siamese net maps similar images to near points and others a margin apart."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import gather, gather_no_grad, world_size
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.losses import feature_std
from ssl_sweep.models.precision import at_least_fp32, full_precision
from ssl_sweep.models.scatter import colors_of, principal_plane, scatter_plot, separation

EPS = 1e-12  # inside the root, whose slope at 0 is infinite
MEASURED = 64  # images, with all their shifts, whose separation is logged: it takes every pair of them


class Method(nn.Module):
    """L = mean over pairs of ½·(1 − Y)·D² + ½·Y·max(0, margin − D)², D = ‖G(x₁) − G(x₂)‖, Y = 0 for similar images.

    G is the encoder itself: its features are the map. Every image of a batch is there as it is and shifted sideways by
    each of `shifts`. Similar are an image's own shifts and those of its nearest neighbours in pixel space, or of images
    with its label; each copy takes part with one similar and one dissimilar copy, drawn at random.

    *Open*, ours: neighbours are sought in the batch, by Euclidean distance between unshifted views; the
    paper's five among its whole set are fewer than one in a batch, hence the default. i is similar to j if j is to i.
    There are as many similar as dissimilar pairs, and the margin is 1.

    Views are the whole image, not cropped; the paper's are not mirrored either (views.flip 0).

    Source: Hadsell, Chopra & LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", equation 4,
    algorithm 1, section 3.3 (MNIST's 4s and 9s; encoder `drlim` at 32 pixels).
    """

    num_pictures = 500  # images that make a map

    def __init__(
        self,
        encoder: Encoder,
        *,
        margin: Annotated[float, Field(gt=0, description="distance from which dissimilar images are left alone")] = 1.0,
        shifts: Annotated[
            tuple[int, ...], Field(description="pixels by which an image is also seen shifted to the right")
        ] = (-6, -3, 3, 6),
        pairs: Annotated[
            Literal["neighbours", "label"], Field(description="similar: nearest in pixel space, or of the same label")
        ] = "neighbours",
        neighbours: Annotated[int, Field(ge=0, description="nearest images of the batch that count as similar")] = 1,
    ) -> None:
        super().__init__()
        if max(map(abs, shifts), default=0) >= encoder.image_size:
            raise ValueError(
                f"drlim: shifts {shifts} leave nothing of an image of {encoder.image_size} pixels; lower them"
            )
        self.encoder = encoder
        self.margin, self.shifts, self.pairs, self.neighbours = margin, (0, *shifts), pairs, neighbours

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Copies and pairs of them, for T shifts, 0 among them; row t·B + i is image i with shift t.

        Returns:
            image: (T·B, 3, S, S) in [0, 1].
            similar: (T·B,) row of a similar copy, of those of the whole batch.
            other: (T·B,) row of another copy, alike.
            dissimilar: (T·B,) bool, Y of the pair with `other`; false only where the batch holds none dissimilar.
            label: (B,) where images have labels; to draw and to measure, and to pair with `pairs` label.

        Raises:
            ValueError: pairs by label of images without labels.
        """
        if images.shard is not None:  # neighbours are sought in the global batch, by every worker
            return self._local_copies(images, self.views(images.global_batch(), augment, rng))
        whole = augment.whole(images, rng)
        related = self._related(whole, images.labels)  # (B, B)
        copies = related.repeat(len(self.shifts), 1)  # (T·B, B), of each copy to each image
        similar, other = _draw_true(copies, rng), _draw_true(~copies, rng)
        views = {
            "image": torch.cat([shifted(whole, shift) for shift in self.shifts]),
            "similar": self._draw_copy(similar, rng),
            "other": self._draw_copy(other, rng),
            "dissimilar": ~copies.gather(1, other.unsqueeze(1)).squeeze(1),
        }
        return views if images.labels is None else views | {"label": images.labels}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over similar and dissimilar pairs, and mean distances of both.

        Also the spread of the map's directions, and the separation of the labels where there are any.
        """
        points = self.encoder(batch["image"])
        with full_precision(points):
            points = at_least_fp32(points)  # (T·B, D)
            dissimilar = torch.cat([torch.zeros_like(batch["dissimilar"]), batch["dissimilar"]])  # Y, (2·T·B,)
            partners = self._gather_points(points)[torch.cat([batch["similar"], batch["other"]])]
            distance = ((points.repeat(2, 1) - partners).square().sum(dim=1) + EPS).sqrt()
            loss = margin_loss(distance, dissimilar, self.margin)
            return loss, self._scalars(points.detach(), distance.detach(), dissimilar, batch.get("label"))

    @torch.no_grad()
    def visualize(self, batch: dict[str, Tensor]) -> Tensor:
        """The copies in the plane, by their pixels and by the map (2, 3, H, W): hue for label, darkness for shift.

        What has more than two dimensions is shown on its first two principal components.
        """
        count, num_shifts = len(batch["image"]) // len(self.shifts), len(self.shifts)
        labels = batch.get("label", batch["image"].new_zeros(count, dtype=torch.int64))
        kinds, label = torch.unique(labels, return_inverse=True)
        rank = torch.tensor([sorted(self.shifts).index(shift) for shift in self.shifts], device=label.device)
        colors = colors_of(label.repeat(num_shifts), rank.repeat_interleave(count), len(kinds), num_shifts)
        planes = (batch["image"].flatten(1), at_least_fp32(self.encoder(batch["image"])))
        return torch.stack([scatter_plot(principal_plane(points), colors) for points in planes])

    @torch.no_grad()
    def visualization_metrics(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How well the map of all copies separates the labels, where there are any."""
        if "label" not in batch:
            return {}
        points = at_least_fp32(self.encoder(batch["image"]))
        return {"separation": separation(points, batch["label"].repeat(len(self.shifts)))}

    def _local_copies(self, images: Images, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """A worker's share (T·b, ...) of views (T·B, ...) of the global batch."""
        labels = {} if "label" not in views else {"label": images.local_rows(views.pop("label"))}
        rows = images.local_rows(torch.arange(images.global_size)).to(views["image"].device)
        starts = images.global_size * torch.arange(len(self.shifts), device=rows.device)
        copies = (starts.unsqueeze(1) + rows).flatten()  # (T·b,)
        return {name: x[copies] for name, x in views.items()} | labels

    def _gather_points(self, points: Tensor) -> Tensor:
        """A worker's points (T·b, D) -> those of all workers (T·B, D), in the order of the global batch's views."""
        by_rank = gather(points).view(world_size(), len(self.shifts), -1, points.shape[1])  # (W, T, b, D)
        return by_rank.transpose(0, 1).flatten(0, 2)

    def _related(self, whole: Tensor, labels: Tensor | None) -> Tensor:
        """Which images (B, B) are similar; each is so to itself."""
        if self.pairs == "neighbours":
            return nearest(whole.flatten(1), self.neighbours)
        if labels is None:
            raise ValueError("drlim: pairs is 'label' and the images have no labels; use 'neighbours'")
        return labels.unsqueeze(1) == labels

    def _draw_copy(self, images: Tensor, rng: Generator) -> Tensor:
        """A random copy, as a row, of each of the images, of which there are T·B."""
        count = len(images) // len(self.shifts)
        return images + count * torch.randint(len(self.shifts), images.shape, generator=rng, device=rng.device)

    def _scalars(
        self, points: Tensor, distance: Tensor, dissimilar: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Of the whole batch: points (T·b, D) of a worker's copies, distance and dissimilar (2·T·b,), labels (b,)."""
        distance, dissimilar, points = gather_no_grad(distance), gather_no_grad(dissimilar), self._gather_points(points)
        scalars = {
            "similar_distance": _mean_where(distance, ~dissimilar),
            "dissimilar_distance": _mean_where(distance, dissimilar),
            "feature_std": feature_std(points),
        }
        if labels is not None:
            labels = gather_no_grad(labels)
            measured = points.view(len(self.shifts), len(labels), -1)[:, :MEASURED].flatten(0, 1)
            scalars["separation"] = separation(measured, labels[:MEASURED].repeat(len(self.shifts)))
        return scalars


def margin_loss(distance: Tensor, dissimilar: Tensor, margin: float) -> Tensor:
    """Mean of ½·(1 − Y)·D² + ½·Y·max(0, margin − D)² over pairs: D (P,), Y (P,) bool."""
    return torch.where(dissimilar, F.relu(margin - distance), distance).square().mean() / 2


def shifted(images: Tensor, shift: int) -> Tensor:
    """Images (B, 3, S, S) moved right by `shift` pixels, left where negative; black comes in from the side."""
    return F.pad(images, (shift, -shift))


def nearest(points: Tensor, count: int) -> Tensor:
    """Pairs of points (B, D) of which one is among the `count` nearest of the other: (B, B) bool, true for itself."""
    with full_precision(points):
        distances = torch.cdist(points, points).fill_diagonal_(-1)  # each the nearest to itself, twins or not
    neighbours = distances.topk(min(count + 1, len(points)), dim=1, largest=False).indices
    related = torch.zeros_like(distances, dtype=torch.bool).scatter_(1, neighbours, True)
    return related | related.T


def _draw_true(allowed: Tensor, rng: Generator) -> Tensor:
    """A random column of each row (R, C) where it is true; any column where none is."""
    scores = torch.rand(allowed.shape, generator=rng, device=rng.device)
    return (scores + allowed).argmax(dim=1)


def _mean_where(x: Tensor, chosen: Tensor) -> Tensor:
    return (x * chosen).sum() / chosen.sum().clamp(min=1)
