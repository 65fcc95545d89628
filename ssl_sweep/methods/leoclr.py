"""LeOCLR: contrasts crops with the whole image instead of with one another."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.heads import mlp
from ssl_sweep.models.keys import (
    QUEUE_SIZE,
    BatchNormSplits,
    KeyBatchNorm,
    MomentumKeys,
    QueueSize,
    batch_groups,
    check_queue,
    draw_orders,
    group_batchnorm,
    queue_for,
)
from ssl_sweep.models.losses import Term, add, global_feature_std, info_nce, nt_xent, unit
from ssl_sweep.models.momentum import EncoderOf

CROPS = ("first", "second")
CHECK = {"knobs": {"queue_size": 16}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """Contrast the uncropped image with two random crops of it: L = ℓ(u, sg v¹) + ℓ(u, sg v²).

    u = f_q(whole image, resized and colour-augmented), vⁱ = f_k(crop i), all of length 1. With momentum, ℓ is MoCo's
    InfoNCE against a queue (see the method moco), θ_k ← m·θ_k + (1 − m)·θ_q. End to end, both branches have gradients
    and the negatives come from the batch.

    Source: Alkhalefi, Leontidis & Zhong 2024, "LeOCLR: Leveraging Original Images for Contrastive Learning of Visual
    Representations", equations 1 to 3, and Table 5 for end to end. *Open*, ours: temperature and queue as in MoCo-v2;
    which keys are enqueued; the mean over the batch where the paper has a sum; end to end, one network for both
    branches, SimCLR's NT-Xent of each pair as ℓ, and SimCLR's normalised head if `head` is mlp.
    """

    view_recipe = "moco_v2"

    def __init__(
        self,
        encoder: Encoder,
        *,
        mechanism: Annotated[
            Literal["momentum", "end_to_end"],
            Field(description="keys by a momentum encoder and a queue, or by gradient against the batch"),
        ] = "momentum",
        queue_size: QueueSize = None,
        enqueue: Annotated[
            Literal["k1", "both"], Field(description="keys that enter the queue: the first crop's, or both crops'")
        ] = "k1",
        dim: Annotated[int, Field(ge=1, description="dimensions of queries and keys")] = 128,
        momentum: Annotated[float, Field(ge=0, le=1, description="momentum of the key encoder")] = 0.999,
        temperature: Annotated[float, Field(gt=0, description="temperature of the softmax")] = 0.2,
        head: Annotated[Literal["mlp", "linear"], Field(description="projection: two layers or one")] = "mlp",
        key_batch_norm: KeyBatchNorm = "shuffled",
        bn_splits: BatchNormSplits = 8,
        encoder_of: EncoderOf = "student",
    ) -> None:
        super().__init__()
        if encoder_of == "teacher" and mechanism == "end_to_end":
            raise ValueError("encoder_of: end_to_end has no moving average; use student, or mechanism: momentum")
        self.momentum, self.temperature, self.key_batch_norm = momentum, temperature, key_batch_norm
        self.encoder_of = encoder_of
        self.num_enqueued = 1 if enqueue == "k1" else 2
        self.encoder = encoder
        features, layers = encoder.feature_dim, 2 if head == "mlp" else 1
        self.keys: MomentumKeys | None = None
        if mechanism == "momentum":
            group_batchnorm(encoder, key_batch_norm, bn_splits)
            self.projector = mlp(features, features, dim, layers=layers)
            self.keys = MomentumKeys(self._online(), dim, queue_size or QUEUE_SIZE)
        else:
            norm: Literal["affine", "none"] = "affine" if head == "mlp" else "none"
            self.projector = mlp(features, features, dim, layers=layers, batch_norm=head == "mlp", last_norm=norm)

    @staticmethod
    def batch_groups(settings: Mapping[str, Any]) -> dict[str, int]:
        """The groups of batch normalisation, which keys by momentum alone have."""
        return batch_groups(settings) if settings["mechanism"] == "momentum" else {}

    @staticmethod
    def defaults_for(settings: Mapping[str, Any], batch_size: int, train_images: int) -> dict[str, Any]:
        """The size of the queue."""
        return {"queue_size": settings["queue_size"] or queue_for(_keys_per_step(settings, batch_size), train_images)}

    @staticmethod
    def check_sizes(settings: Mapping[str, Any], batch_size: int, train_images: int | None) -> str | None:
        """Raise ValueError unless the queue, if there is one, fits a step and the training set; returns a warning."""
        if settings["mechanism"] == "end_to_end":
            return None
        return check_queue(settings["queue_size"], _keys_per_step(settings, batch_size), train_images)

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """The whole image and two crops, (B, 3, S, S) each; with momentum, the orders of the batch for keys."""
        views = {
            "whole": augment.whole(images, rng),
            "first": augment.view(images, rng),
            "second": augment.view(images, rng, second=True),
        }
        kind = self.key_batch_norm if self.keys is not None else "plain"
        return views | draw_orders(CROPS, kind, images.global_size, rng)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both contrasts, mean similarities of positives and negatives, feature_std of the whole images."""
        query = self._project(batch["whole"])  # (B, dim)
        terms = self._end_to_end(query, batch) if self.keys is None else self._against_queue(self.keys, query, batch)
        loss, scalars = add(terms)
        return loss, {**scalars, "feature_std": global_feature_std(query)}

    def evaluated(self) -> nn.Sequential:
        """The encoder that is evaluated, and its projector."""
        return self.keys.network if self.keys is not None and self.encoder_of == "teacher" else self._online()

    def after_step(self, progress: float) -> None:
        """With momentum: update the key encoder and enqueue the step's keys."""
        if self.keys is not None:
            self.keys.step(self._online(), self.momentum)

    def _end_to_end(self, query: Tensor, batch: dict[str, Tensor]) -> list[Term]:
        return [nt_xent(query, self._project(batch[crop]), self.temperature) for crop in CROPS]

    def _against_queue(self, keys: MomentumKeys, query: Tensor, batch: dict[str, Tensor]) -> list[Term]:
        fresh = [keys.encode(batch[crop], batch.get(f"{crop}_order")) for crop in CROPS]  # (B, dim) each
        keys.hold(*fresh[: self.num_enqueued])
        return [info_nce(query, key, keys.queue.keys, self.temperature) for key in fresh]

    def _project(self, images: Tensor) -> Tensor:
        return unit(self.projector(self.encoder(images)))

    def _online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projector)


def _keys_per_step(settings: Mapping[str, Any], batch_size: int) -> int:
    return batch_size * (2 if settings["enqueue"] == "both" else 1)
