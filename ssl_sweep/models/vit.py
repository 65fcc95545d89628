"""Vision transformers, built on torchvision's.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; tiny and small as in Touvron et al. 2021 (DeiT).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer

from ssl_sweep.models.encoder import Encoder, Normalization

PatchSize = Annotated[
    int | None,
    Field(ge=1, description="side of a patch in pixels; null: 16 for images from 128 pixels, else an 8th of the side"),
]
Pool = Annotated[Literal["mean", "class"], Field(description="features: mean of the patch tokens, or class token")]


class ViTEncoder(Encoder):
    """A vision transformer without its classifier, in two parts that a masked autoencoder calls separately.

    `embed` returns the patches with their positions, `encode` runs any subset of them through the blocks.
    A subclass sets `hidden_dim` D and `heads`; all have 12 blocks and an MLP of 4 * D.

    Raises:
        ValueError: the patch does not tile the image.
    """

    net: VisionTransformer
    hidden_dim: int
    heads: int

    def __init__(
        self,
        image_size: int,
        *,
        patch_size: PatchSize = None,
        pool: Pool = "class",
        normalize: Normalization = "none",
    ) -> None:
        patch_size = patch_size or default_patch_size(image_size)
        if patch_size not in _divisors(image_size):
            raise ValueError(
                f"patch_size: {patch_size} does not divide image_size {image_size}; use one of {_divisors(image_size)}"
            )
        net = VisionTransformer(image_size, patch_size, 12, self.heads, self.hidden_dim, 4 * self.hidden_dim)
        net.heads = nn.Identity()  # type: ignore[assignment]  # without classifier
        side = image_size // patch_size
        super().__init__(net, image_size, (self.hidden_dim, side, side), normalize=normalize)
        self.patch_size = self.side_step = patch_size
        self.pool = pool

    def embed(self, x: Tensor, masked: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> patch embeddings with positions added (B, N, D), row by row.

        S may be any multiple of the patch. Patches that are true in `masked` (B, N) become the `mask_token` (D,) first.

        Raises:
            ValueError: the images are not of whole patches.
        """
        if any(side % self.patch_size for side in x.shape[2:]):
            sides = "x".join(map(str, x.shape[2:]))
            raise ValueError(f"images of {sides} pixels are no whole patches of {self.patch_size}; resize them")
        grid = self.net.conv_proj(self.normalize(x))  # (B, D, h, w)
        patches = grid.flatten(2).transpose(1, 2)  # (B, N, D)
        if masked is not None and mask_token is not None:
            patches = torch.where(masked.unsqueeze(2), mask_token.to(patches.dtype), patches)
        embedded: Tensor = patches + self._positions(grid.shape[2], grid.shape[3])
        return embedded

    def _positions(self, height: int, width: int) -> Tensor:
        """Positions (1, N, D) of a grid of patches, interpolated where it is not the one that the encoder has."""
        positions: Tensor = self.net.encoder.pos_embedding[:, 1:]  # (1, N, D)
        _, rows, columns = self.map_shape
        if (height, width) == (rows, columns):
            return positions
        grid = positions.transpose(1, 2).reshape(1, -1, rows, columns)
        # as in DINO (Caron et al. 2021, arXiv:2104.14294); antialiased, since the grid becomes smaller
        resized = F.interpolate(grid, (height, width), mode="bicubic", antialias=True, align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    def encode(self, patches: Tensor) -> Tensor:
        """Embedded patches (B, V, D), all or the visible ones -> class and patch tokens (B, 1 + V, D)."""
        class_token = self.net.class_token + self.net.encoder.pos_embedding[:, :1]  # (1, 1, D)
        sequence = torch.cat([class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        tokens: Tensor = self.net.encoder.ln(self.net.encoder.layers(self.net.encoder.dropout(sequence)))
        return tokens

    def tokens(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> class token and N patch tokens (B, 1 + N, D)."""
        return self.encode(self.embed(x))

    def feature_map(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> patch tokens as a map (B, D, h, w)."""
        patches = self.tokens(x)[:, 1:]  # (B, N, D)
        height, width = (side // self.patch_size for side in x.shape[2:])
        return patches.transpose(1, 2).reshape(len(x), -1, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> pooled features (B, D)."""
        return self.pooled(self.tokens(x))

    def pooled(self, tokens: Tensor) -> Tensor:
        """Class and patch tokens (B, 1 + N, D) -> features (B, D)."""
        return tokens[:, 0] if self.pool == "class" else tokens[:, 1:].mean(dim=1)


class ViTTiny(ViTEncoder):
    """ViT-Ti: 192 wide, 3 heads."""

    hidden_dim, heads = 192, 3


class ViTSmall(ViTEncoder):
    """ViT-S: 384 wide, 6 heads."""

    hidden_dim, heads = 384, 6


class ViTBase(ViTEncoder):
    """ViT-B: 768 wide, 12 heads."""

    hidden_dim, heads = 768, 12


def default_patch_size(image_size: int) -> int:
    """The divisor of the image's side nearest to 16 pixels, or to an eighth of the side below 128 pixels."""
    wanted = 16 if image_size >= 128 else image_size / 8
    return min(_divisors(image_size), key=lambda size: abs(size - wanted))


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
