"""Denoising autoencoder; the `views` knobs set the corruption: overlay, mask, AutoAugment or none."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.decoders import mirrored_decoder
from ssl_sweep.models.distributed import gather_no_grad
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.precision import at_least_fp32, full_precision

NUM_SHOWN = 8  # images in a grid of reconstructions


class Method(nn.Module):
    """Reconstruct an image from a corrupted one: L = MSE(f_d(f_e(x̂)), x).

    With overlay, x̂_i = α·x_j + (1 − α)·x_i for another image j of the batch; x̂ can also be the image with masked
    pixels or patches, after AutoAugment, or x itself. Input and target share crop and flip.

    Source: Li, Ding & Wang 2023, "Transcending Masking with Paired Image Overlay", section 3.1. The decoder of
    encoders other than ResNets is ours.
    """

    view_recipe = "autoencoder"

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = mirrored_decoder(encoder)

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Corrupted input and clean target, both (B, 3, S, S) in [0, 1]."""
        corrupted, target = augment.pair(images, rng)
        return {"input": corrupted, "target": target}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over all pixels, and the reconstruction's PSNR in decibels."""
        output = self.reconstruct(batch["input"])
        with full_precision(output):
            error = F.mse_loss(output, at_least_fp32(batch["target"]))
        global_error = gather_no_grad(error.unsqueeze(0)).mean()
        return error, {"psnr_db": -10 * global_error.log10()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> reconstructions (B, 3, S, S) in [0, 1], in fp32 or better."""
        output: Tensor = self.decoder(self.encoder.feature_map(x))
        return output

    @torch.no_grad()
    def visualize(self, batch: dict[str, Tensor]) -> Tensor:
        """Targets, inputs and reconstructions of the first n <= 8 images (3n, 3, S, S), a row of n each."""
        target, corrupted = batch["target"][:NUM_SHOWN], batch["input"][:NUM_SHOWN]
        return torch.cat([target, corrupted, self.reconstruct(corrupted)])
