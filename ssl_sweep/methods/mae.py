"""Masked autoencoder: a transformer encodes the visible patches, a small one reconstructs the others."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.losses import global_feature_std
from ssl_sweep.models.precision import at_least_fp32, full_precision
from ssl_sweep.models.vit import ViTEncoder

NUM_SHOWN = 8  # images in a grid of reconstructions
EPS = 1e-6  # added to a patch's variance
GRAY = 0.5  # shown where a patch is masked
CHECK = {"knobs": {"decoder_dim": 32, "decoder_depth": 1}}  # narrow, for ssl-sweep check


class Method(nn.Module):
    """L = mean over the masked patches of (decoder's pixels − the patch's pixels)².

    Only the visible patches are encoded; the decoder gets their tokens and one learned token for each masked place.
    The target is the patch standardised by its mean and standard deviation, or the plain patch.

    Input and target are `Augment.pair`'s: the target has no overlay.

    Source: He, Chen, Xie, Li, Dollár & Girshick 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3.
    Its appendix A.1 has these `pretrain` settings on ImageNet: epochs 800, batch_size 4096, optimizer adamw, lr 1.5e-4,
    lr_scaling linear, beta2 0.95, weight_decay 0.05, decay_norm_and_bias and decay_tokens false, warmup_epochs 40.
    *Open*, ours: the positions of encoder and decoder are learned, where the paper has sines and cosines.

    Raises:
        ValueError: the encoder is no vision transformer, or the mask covers no patch or every patch.
    """

    view_recipe = "mae"

    def __init__(
        self,
        encoder: ViTEncoder,
        *,
        mask_ratio: Annotated[float, Field(gt=0, lt=1, description="share of patches that are masked")] = 0.75,
        normalize_target: Annotated[
            bool, Field(description="standardise each target patch to mean 0 and variance 1")
        ] = True,
        decoder_dim: Annotated[int, Field(ge=1, description="width of the decoder, a multiple of its heads")] = 512,
        decoder_depth: Annotated[int, Field(ge=1, description="blocks of the decoder")] = 8,
        decoder_heads: Annotated[int, Field(ge=1, description="attention heads of the decoder")] = 16,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, ViTEncoder):
            raise ValueError(f"mae: encoder is a {type(encoder).__name__}; use vit_tiny, vit_small or vit_base")
        if decoder_dim % decoder_heads:
            raise ValueError(
                f"mae: decoder_dim {decoder_dim} is not a multiple of decoder_heads {decoder_heads}; change one of them"
            )
        _, height, width = encoder.map_shape
        self.num_patches = height * width
        self.num_visible = self.num_patches - round(mask_ratio * self.num_patches)
        if not 0 < self.num_visible < self.num_patches:
            raise ValueError(
                f"mae: mask_ratio {mask_ratio} leaves {self.num_visible} of {self.num_patches} patches visible; "
                "take a smaller encoder.patch_size or another ratio"
            )
        self.normalize_target = normalize_target
        self.encoder = encoder
        self.decoder = Decoder(
            encoder.feature_dim,
            self.num_patches,
            3 * encoder.patch_size**2,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
        )

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Input and target (B, 3, S, S) in [0, 1], and `order` (B, N): patches in random order, visible ones first."""
        corrupted, target = augment.pair(images, rng)
        scores = images.sampler(rng).rand(self.num_patches)
        return {"input": corrupted, "target": target, "order": scores.argsort(dim=1)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over the masked patches; feature_std of the encoder's mean tokens."""
        tokens = self.encode(batch)
        output = self.reconstruct(tokens, batch["order"])
        with full_precision(output):
            target, _, _ = self._targets(batch["target"])
            errors = (output - target).square().mean(dim=2)  # (B, N)
            loss = errors.gather(1, batch["order"][:, self.num_visible :]).mean()
        return loss, {"feature_std": global_feature_std(tokens[:, 1:].mean(dim=1))}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Class token and tokens of the visible patches (B, 1 + V, D)."""
        patches = self.encoder.embed(batch["input"])  # (B, N, D)
        visible = batch["order"][:, : self.num_visible, None].expand(-1, -1, patches.shape[2])
        return self.encoder.encode(patches.gather(1, visible))

    def reconstruct(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Encoded tokens (B, 1 + V, D) -> every patch (B, N, 3·p²), masked or not, in fp32 or better."""
        output: Tensor = self.decoder(tokens, order)
        return at_least_fp32(output)

    @torch.no_grad()
    def visualize(self, batch: dict[str, Tensor]) -> Tensor:
        """Targets, visible patches and reconstructions of the first n <= 8 images (3n, 3, S, S), a row of n each."""
        batch = {name: view[:NUM_SHOWN] for name, view in batch.items()}
        target, side = batch["target"], self.encoder.patch_size
        _, mean, scale = self._targets(target)
        masked = torch.zeros_like(batch["order"], dtype=torch.bool)
        masked.scatter_(1, batch["order"][:, self.num_visible :], True)  # (B, N)
        given = patchify(batch["input"], side)
        seen = torch.where(masked.unsqueeze(2), GRAY, given)
        filled = torch.where(
            masked.unsqueeze(2), self.reconstruct(self.encode(batch), batch["order"]) * scale + mean, given
        )
        rows = [unpatchify(patches, side) for patches in (seen, filled)]
        return torch.cat([target, *rows]).clamp(0, 1)

    def _targets(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target patches (B, N, 3·p²), and the mean and scale (B, N, 1) that convert them back to pixels."""
        patches = at_least_fp32(patchify(images, self.encoder.patch_size))
        if not self.normalize_target:
            return patches, patches.new_zeros(1), patches.new_ones(1)
        mean = patches.mean(dim=2, keepdim=True)
        scale = (patches.var(dim=2, keepdim=True) + EPS).sqrt()
        return (patches - mean) / scale, mean, scale


class Decoder(nn.Module):
    """Class and visible tokens (B, 1 + V, D) and the patches' order (B, N) -> pixels of all patches (B, N, P)."""

    def __init__(self, in_dim: int, num_patches: int, num_pixels: int, *, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.positions = nn.Parameter(torch.empty(1, 1 + num_patches, dim).normal_(std=0.02))
        self.blocks = nn.Sequential(*(EncoderBlock(heads, dim, 4 * dim, 0.0, 0.0) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pixels = nn.Linear(dim, num_pixels)

    def forward(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Put mask tokens at the places in `order` after the visible ones; drop the class token's output."""
        tokens = self.embed(tokens)
        batch_size, num_patches, dim = *order.shape, tokens.shape[2]
        masks = self.mask_token.to(tokens.dtype).expand(batch_size, num_patches + 1 - tokens.shape[1], dim)
        shuffled = torch.cat([tokens[:, 1:], masks], dim=1)  # (B, N, dim), as in `order`
        patches = shuffled.gather(1, order.argsort(dim=1).unsqueeze(2).expand(-1, -1, dim))
        sequence = torch.cat([tokens[:, :1], patches], dim=1) + self.positions
        output: Tensor = self.pixels(self.norm(self.blocks(sequence)))[:, 1:]
        return output


def patchify(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, S, S) -> patches (B, N, 3·side²), row by row, as the transformer numbers them."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * side * side)


def unpatchify(patches: Tensor, side: int) -> Tensor:
    """Patches (B, N, 3·side²) of square images, row by row -> images (B, 3, S, S)."""
    count = math.isqrt(patches.shape[1])
    grid = patches.reshape(len(patches), count, count, 3, side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, count * side, count * side)
