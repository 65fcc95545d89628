"""SwAV: crops of an image predict one another's assignment to prototypes, which share out the batch equally."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.multi_crop import SIDE, local_augment, local_views
from ssl_sweep.data.views import Augment
from ssl_sweep.models.distributed import gather_no_grad, rank
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.losses import cross_view_loss, global_feature_std, relative_entropy, unit
from ssl_sweep.models.precision import full_precision
from ssl_sweep.models.queue import Queue
from ssl_sweep.models.sides import nearby_side

GLOBAL = ("first", "second")
LOCAL_SCALE = (0.05, 0.14)  # share of the image's area that a local crop covers
QUEUE_STEPS = 15  # whose images the paper's queue holds: 3,840 at batches of 256

CHECK = {
    "knobs": {"prototypes": 16, "hidden_dim": 128, "local_crops": 2, "queue_size": 6}
}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """L = mean over global crops i and other crops v of −Σ_k q_i(k) · log p_v(k).

    p_v = softmax(z_v·C/τ) with z the projections and C the prototypes, all of length 1. q_i, without gradient, is the
    assignment of the global batch's crops i that maximises Σ z·C q + ε·H(q) while each prototype receives equally
    much: some iterations of Sinkhorn and Knopp. A queue adds the projections of past images to a small batch, in the
    assignment alone. Prototypes do not move in the first `frozen_steps`.

    Source: Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", equations
    2 to 6 and section 3; the sum of equation 6 is a mean, as in its authors' code, and batch statistics are those of
    all crops of a size. Its `pretrain` settings on ImageNet: epochs 800, batch_size 4096, optimizer lars, lr 0.3,
    lr_scaling linear, weight_decay 1e-6, warmup_epochs 10, final_lr 0.0048. *Open*, ours: `views.mask_ratio` does not
    mask smaller crops; the queue begins after a share of the training, the paper's 15 of 200 epochs.

    Raises:
        ValueError: the encoder takes no images of the local crops' side.
    """

    view_recipe = "swav"
    steps: Tensor
    progress: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        prototypes: Annotated[int, Field(ge=2, description="number K of prototypes")] = 3000,
        hidden_dim: Annotated[int, Field(ge=1, description="width of the projector's hidden layer")] = 2048,
        dim: Annotated[int, Field(ge=1, description="dimensions of projections and prototypes")] = 128,
        temperature: Annotated[float, Field(gt=0, description="temperature τ of the predictions")] = 0.1,
        epsilon: Annotated[float, Field(gt=0, description="entropy ε of the assignments: low is sharp")] = 0.05,
        sinkhorn_iterations: Annotated[int, Field(ge=1, description="iterations of Sinkhorn and Knopp")] = 3,
        local_crops: Annotated[int, Field(ge=0, description="small crops per image, which are not assigned")] = 6,
        local_side: Annotated[
            float,
            Field(gt=0, le=1, description="side of a local crop over a global one's; a ViT's is of whole patches"),
        ] = SIDE,
        queue_size: Annotated[
            int | None,
            Field(
                ge=0,
                description="past images that are assigned with a batch; null: those of 15 steps, fewer than the "
                "training images, where a batch has fewer images than there are prototypes, else none",
            ),
        ] = None,
        queue_start: Annotated[
            float, Field(ge=0, le=1, description="share of the training after which the queue is used")
        ] = 0.075,
        frozen_steps: Annotated[
            int | None, Field(ge=0, description="first steps, in which prototypes do not move; null: one epoch's")
        ] = None,
    ) -> None:
        super().__init__()
        self.temperature, self.epsilon, self.sinkhorn_iterations = temperature, epsilon, sinkhorn_iterations
        self.queue_start, self.frozen_steps, self.local_crops = queue_start, frozen_steps or 0, local_crops
        self.local_side = _local_side(encoder, local_side) if local_crops else encoder.image_size
        self.encoder = encoder
        self.projector = mlp(encoder.feature_dim, hidden_dim, dim, batch_norm=True)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, dim), dim=1))
        self.queues = nn.ModuleList(Queue(queue_size, dim) for _ in GLOBAL if queue_size)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))  # of the last step, in [0, 1]
        self._held: list[Tensor] = []  # all ranks' projections (W·B, dim) of each global crop, until `after_step`

    @staticmethod
    def defaults_for(settings: Mapping[str, Any], batch_size: int, train_images: int) -> dict[str, Any]:
        """The size of the queue, and the steps of an epoch."""
        queue, frozen = settings["queue_size"], settings["frozen_steps"]
        if queue is None:
            steps = min(QUEUE_STEPS, (train_images - 1) // batch_size)
            queue = steps * batch_size if batch_size < settings["prototypes"] else 0
        return {"queue_size": queue, "frozen_steps": train_images // batch_size if frozen is None else frozen}

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two global crops (B, 3, S, S) in [0, 1] of every image, and the local ones (B, 3, s, s)."""
        views = {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}
        if self.local_crops:
            small = local_augment(augment, self.local_side, LOCAL_SCALE, blur=None, solarize=None)
            views |= local_views(images, small, self.local_crops, rng)
        return views

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The swapped prediction, the relative entropies of predictions' mean and of assignments, and feature_std.

        A loss that stays at ln K with an assignment_entropy near 1 has no signal: all images are assigned to all
        prototypes alike, as happens in short trainings of small encoders; lower `epsilon`, to 0.02 say, or the rate.
        """
        projections = self._project(batch)  # (B, dim) for each crop
        with full_precision(projections[0]):
            directions = self._directions()
            logits = [z @ directions.T / self.temperature for z in projections]  # (B, K) each
        self._held = [gather_no_grad(z) for z in projections[: len(GLOBAL)]]
        count = len(projections[0])
        own = slice(rank() * count, (rank() + 1) * count)
        assignments = torch.stack([self._assign(number)[own] for number in range(len(GLOBAL))])  # (2, B, K)
        loss = cross_view_loss(logits, assignments)
        with torch.no_grad():
            predicted = torch.cat(logits[: len(GLOBAL)]).softmax(dim=1).mean(dim=0, keepdim=True)
        return loss, {
            "prototype_entropy": relative_entropy(gather_no_grad(predicted).mean(dim=0)),
            "assignment_entropy": relative_entropy(assignments).mean(),
            "feature_std": global_feature_std(torch.cat(projections)),
        }

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Scale the prototypes to length 1, and enqueue the step's projections."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        for queue, projections in zip(self.queues, self._held, strict=False):  # there may be no queues
            queue.enqueue(projections)  # type: ignore[operator]
        self.steps.add_(1)
        self.progress.fill_(progress)

    def _project(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Projections (B, dim) of length 1 of each crop, the global ones first; crops of a size pass at once."""
        names = [*GLOBAL, *self._local_names()]
        by_size: dict[torch.Size, list[Tensor]] = {}
        for name in names:
            by_size.setdefault(batch[name].shape, []).append(batch[name])
        features = torch.cat([self.encoder(torch.cat(crops)) for crops in by_size.values()])
        return list(unit(self.projector(features)).chunk(len(names)))

    def _directions(self) -> Tensor:
        """The prototypes (K, dim); while they are frozen, their gradient is 0."""
        fixed = self.prototypes.detach()
        moves = (self.steps >= self.frozen_steps).to(fixed.dtype)
        return fixed + moves * (self.prototypes - fixed)

    @torch.no_grad()
    def _assign(self, number: int) -> Tensor:
        """Assignments (N, K), N at least W·B, of all ranks' global crops of that number, balanced with the queue's."""
        projections = self._held[number]  # (W·B, dim)
        log_weights = projections.new_zeros(len(projections))
        if self.queues:
            past: Tensor = self.queues[number].keys  # type: ignore[assignment]
            is_used = (self.steps * len(projections) >= len(past)) & (self.progress >= self.queue_start)
            # a weight of 0 in place of fewer rows: a branch would wait for the accelerator in each step
            log_weights = torch.cat([log_weights, torch.where(is_used, 0.0, -torch.inf).expand(len(past))])
            projections = torch.cat([projections, past])
        with full_precision(projections):
            scores = projections @ self.prototypes.T  # (N, K)
            return sinkhorn(scores, log_weights, self.epsilon, self.sinkhorn_iterations)

    def _local_names(self) -> list[str]:
        return [f"local{number}" for number in range(self.local_crops)]


def sinkhorn(scores: Tensor, log_weights: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Assignments (N, K) in which each row sums to 1 and, in the limit, each column has an equal share of all rows.

    An iteration scales columns, then rows, of exp(scores/ε); by logarithms, since exp overflows at a small ε.

    Source: Cuturi 2013, "Sinkhorn Distances", algorithm 1; Caron et al. 2020, equation 5.

    Args:
        scores: (N, K) cosines of rows and prototypes.
        log_weights: (N,) logarithm of each row's part in the columns' shares: 0, or −inf for none.
        epsilon: ε.
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - (log_q + log_weights.unsqueeze(1)).logsumexp(dim=0)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()


def _local_side(encoder: Encoder, share: float) -> int:
    try:
        return nearby_side(encoder, share)
    except ValueError as error:
        raise ValueError(f"local_side: {share:.3g}: the encoder cannot see local crops: {error}; use 1") from error
