"""SimMIM: an encoder sees an image with masked patches, and one linear layer predicts their pixels."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.mask import check_mask, draw_mask
from ssl_sweep.data.views import Augment
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.losses import global_feature_std
from ssl_sweep.models.precision import at_least_fp32, full_precision
from ssl_sweep.models.vit import ViTEncoder

NUM_SHOWN = 8  # images in a grid of reconstructions
GRAY = 0.5  # shown where a patch is masked
PATCHES_A_SIDE = 6  # of the mask, as 32 pixels of 192


class Method(nn.Module):
    """L = mean over the masked pixels and their channels of |g(f(x with its masked patches replaced)) − x|.

    f is the encoder's feature map at its stride r, g one 1x1 convolution to 3·r² channels, whose output is rearranged
    to r x r pixels a cell. A transformer of the package has a learned token in place of the masked patches'
    embeddings; other encoders see the image with these pixels replaced.

    Input and target are `Augment.pair`'s: the target has no overlay. So masks and overlay are compared by one decoder
    and one loss: `method.mask_ratio` here against `views.overlay_alpha` of the same method or of `autoencoder`.

    Source: Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling", section 3: random patches of 32
    pixels of 192, ratio 0.6, L1 on the masked pixels. Its `pretrain` settings on ImageNet (section 4.1): epochs 100,
    batch_size 2048, optimizer adamw, lr 8e-4, weight_decay 0.05, warmup_epochs 10. *Open*, ours: the mask's patches are
    a sixth of the side at any size; the target is in [0, 1], where the paper's has ImageNet's statistics; the colour
    that replaces pixels is the mean of the image's visible ones; positions are learned, without a bias by relative
    position. A transformer's class token is not trained: evaluate with `encoder.pool: mean`.

    Raises:
        ValueError: the mask's patches do not tile the image, are no multiple of the transformer's, cover nothing or
            everything, or there is no token to learn.
    """

    view_recipe = "simmim"

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: Annotated[float, Field(gt=0, lt=1, description="share of patches that are masked")] = 0.6,
        mask_patch: Annotated[
            int | None,
            Field(
                ge=1,
                description="side of a masked patch in pixels, in vision transformers a multiple of theirs; null: the "
                "possible one that is nearest to a sixth of the image's side, as 32 of 192",
            ),
        ] = None,
        mask_fill: Annotated[
            Literal["token", "mean", "zero"] | None,
            Field(
                description="masked places: a learned token (vit_tiny, vit_small, vit_base only), the mean colour of "
                "the image's other pixels, or black; null: token where it is possible, else mean"
            ),
        ] = None,
    ) -> None:
        super().__init__()
        has_tokens = isinstance(encoder, ViTEncoder)
        self.mask_fill = mask_fill or ("token" if has_tokens else "mean")
        if self.mask_fill == "token" and not has_tokens:
            raise ValueError(
                f"mask_fill: token needs vit_tiny, vit_small or vit_base as encoder, not {type(encoder).__name__}; "
                "take mean or zero"
            )
        self.size, self.mask_ratio = encoder.image_size, mask_ratio
        self.mask_patch = mask_patch or default_mask_patch(self.size, _cell(encoder, self.mask_fill))
        _check_patch(self.mask_patch, encoder, self.mask_fill)
        check_mask(self.size, self.mask_patch, mask_ratio)
        channels, height, width = encoder.map_shape
        self.stride = -(-self.size // max(height, width))  # rounded up
        self.encoder = encoder
        self.head = nn.Conv2d(channels, 3 * self.stride**2, 1)
        if self.mask_fill == "token":
            self.mask_token = nn.Parameter(torch.empty(channels).normal_(std=0.02))

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Input and target (B, 3, S, S) in [0, 1], and `mask` (B, 1, S, S) bool, true where the input is hidden."""
        corrupted, target = augment.pair(images, rng)
        mask = images.sampler(rng)(draw_mask, self.size, self.mask_patch, self.mask_ratio)
        return {"input": corrupted, "target": target, "mask": mask}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error over the masked pixels; feature_std of the pooled feature map."""
        features = self.features(batch["input"], batch["mask"])
        output = self.predict(features)
        with full_precision(output):
            # each image has as many masked pixels, so that a mean of ranks is that of the batch
            errors = (output - at_least_fp32(batch["target"])).abs() * batch["mask"]
            loss = errors.sum() / (3 * batch["mask"].sum())
        return loss, {"feature_std": global_feature_std(features.mean(dim=(2, 3)))}

    def features(self, x: Tensor, mask: Tensor) -> Tensor:
        """Images (B, 3, S, S) and mask (B, 1, S, S) -> the map (B, C, h, w) of what is not masked."""
        if self.mask_fill != "token":
            return self.encoder.feature_map(torch.where(mask, _fill(x, mask, self.mask_fill), x))
        assert isinstance(self.encoder, ViTEncoder)  # noqa: S101 - checked by the constructor; for the type checker
        side = self.encoder.patch_size
        hidden = mask[:, 0, ::side, ::side].flatten(1)  # (B, N)
        tokens = self.encoder.encode(self.encoder.embed(x, hidden, self.mask_token))
        return tokens[:, 1:].transpose(1, 2).reshape(-1, *self.encoder.map_shape)

    def predict(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) -> images (B, 3, S, S), in fp32 or better; their range is not limited."""
        pixels = F.pixel_shuffle(at_least_fp32(self.head(features)), self.stride)
        if pixels.shape[2:] != (self.size, self.size):  # the stride does not divide the side
            pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear")
        return pixels

    @torch.no_grad()
    def visualize(self, batch: dict[str, Tensor]) -> Tensor:
        """Targets, masked inputs and predictions of the first n <= 8 images (3n, 3, S, S), a row of n each."""
        given, target, mask = (batch[name][:NUM_SHOWN] for name in ("input", "target", "mask"))
        filled = torch.where(mask, self.predict(self.features(given, mask)).to(given.dtype), given)
        return torch.cat([target, torch.where(mask, GRAY, given), filled]).clamp(0, 1)


def default_mask_patch(size: int, cell: int) -> int:
    """The multiple of `cell` that divides `size`, leaves two patches a side, and is nearest to a sixth of it."""
    possible = [side for side in range(cell, size // 2 + 1, cell) if size % side == 0]
    return min(possible, key=lambda side: abs(side - size / PATCHES_A_SIDE), default=cell)


def _cell(encoder: Encoder, fill: str) -> int:
    """The side of the smallest patch that can be masked."""
    return encoder.patch_size if fill == "token" and isinstance(encoder, ViTEncoder) else 1


def _check_patch(patch: int, encoder: Encoder, fill: str) -> None:
    cell = _cell(encoder, fill)
    if patch % cell:
        raise ValueError(
            f"mask_patch: {patch} is not a multiple of the transformer's patches of {cell} pixels; take "
            f"{default_mask_patch(encoder.image_size, cell)}, or mask_fill: mean"
        )


def _fill(x: Tensor, mask: Tensor, kind: str) -> Tensor:
    """What replaces the masked pixels of `x` (B, 3, S, S), broadcastable to it."""
    if kind == "zero":
        return x.new_zeros(1)
    seen = (~mask).to(x.dtype)  # masked pixels would leak into a mean over all
    return (x * seen).sum(dim=(2, 3), keepdim=True) / seen.sum(dim=(2, 3), keepdim=True)
