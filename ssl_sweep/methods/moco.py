"""Momentum contrast, version 2: queries against a queue of keys from a slowly moving encoder."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
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
from ssl_sweep.models.losses import add, global_feature_std, info_nce, unit
from ssl_sweep.models.momentum import EncoderOf

CHECK = {"knobs": {"queue_size": 16}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """Contrast a view with another view of its image and with the keys of past images.

    L = −log(exp(q·k/τ) / (exp(q·k/τ) + Σ_n exp(q·k_n/τ))), q = f_q(first view), k = f_k(second view), both of length
    1, k_n the queue's; θ_k ← m·θ_k + (1 − m)·θ_q after each step, no gradient to the keys. Symmetric: the views swap
    roles and the losses are added; both use the queue of the previous step, and both views' keys are enqueued.

    Source: He et al. 2020, "Momentum Contrast", equations 1 and 2; Chen et al. 2020, "Improved Baselines with Momentum
    Contrastive Learning", which adds the MLP head, the augmentation and τ 0.2. Defaults are those for ImageNet, except
    bn_splits, which replaces the authors' eight devices; their CIFAR-10 notebook has queue_size 4096, momentum 0.99,
    temperature 0.1 and a linear head. A queue longer than the training set contains older keys of the query's own
    image, which is harmful: by default it is shorter.
    """

    view_recipe = "moco_v2"
    batch_groups = staticmethod(batch_groups)

    def __init__(
        self,
        encoder: Encoder,
        *,
        queue_size: QueueSize = None,
        dim: Annotated[int, Field(ge=1, description="dimensions of queries and keys")] = 128,
        momentum: Annotated[float, Field(ge=0, le=1, description="momentum of the key encoder")] = 0.999,
        temperature: Annotated[float, Field(gt=0, description="temperature of the softmax")] = 0.2,
        head: Annotated[
            Literal["mlp", "linear"], Field(description="projection: two layers (version 2) or one (version 1)")
        ] = "mlp",
        symmetric: Annotated[bool, Field(description="use each view as query and key, at twice the cost")] = False,
        key_batch_norm: KeyBatchNorm = "shuffled",
        bn_splits: BatchNormSplits = 8,
        encoder_of: EncoderOf = "student",
    ) -> None:
        super().__init__()
        self.momentum, self.temperature, self.key_batch_norm = momentum, temperature, key_batch_norm
        self.encoder_of = encoder_of
        group_batchnorm(encoder, key_batch_norm, bn_splits)
        self.encoder = encoder
        self.projector = mlp(encoder.feature_dim, encoder.feature_dim, dim, layers=2 if head == "mlp" else 1)
        self.keys = MomentumKeys(self._online(), dim, queue_size or QUEUE_SIZE)
        self.roles = (("first", "second"), ("second", "first"))[: 2 if symmetric else 1]  # (query, key)

    @staticmethod
    def defaults_for(settings: Mapping[str, Any], batch_size: int, train_images: int) -> dict[str, Any]:
        """The size of the queue."""
        return {"queue_size": settings["queue_size"] or queue_for(_keys_per_step(settings, batch_size), train_images)}

    @staticmethod
    def check_sizes(settings: Mapping[str, Any], batch_size: int, train_images: int | None) -> str | None:
        """Raise ValueError unless the queue fits a step's keys and the training set; returns a warning."""
        return check_queue(settings["queue_size"], _keys_per_step(settings, batch_size), train_images)

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Two views (B, 3, S, S), and for each view of keys an order of the whole batch to compute them in."""
        views = {"first": augment.view(images, rng), "second": augment.view(images, rng, second=True)}
        names = tuple(key for _, key in self.roles)
        return views | draw_orders(names, self.key_batch_norm, images.global_size, rng)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE against the queue, mean similarities of positives and negatives, feature_std of the queries."""
        queries = [unit(self.projector(self.encoder(batch[query]))) for query, _ in self.roles]  # (B, dim) each
        keys = [self.keys.encode(batch[key], batch.get(f"{key}_order")) for _, key in self.roles]
        queue, temperature = self.keys.queue.keys, self.temperature
        loss, scalars = add([info_nce(q, k, queue, temperature) for q, k in zip(queries, keys, strict=True)])
        self.keys.hold(*keys)
        return loss, {**scalars, "feature_std": global_feature_std(torch.cat(queries))}

    def evaluated(self) -> nn.Sequential:
        """The encoder that is evaluated, and its projector."""
        return self.keys.network if self.encoder_of == "teacher" else self._online()

    def after_step(self, progress: float) -> None:
        """Update the key encoder and enqueue the step's keys."""
        self.keys.step(self._online(), self.momentum)

    def _online(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.projector)


def _keys_per_step(settings: Mapping[str, Any], batch_size: int) -> int:
    return batch_size * (2 if settings["symmetric"] else 1)
