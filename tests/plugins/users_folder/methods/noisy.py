"""Denoising autoencoder: my own method."""

from typing import Annotated

from pydantic import Field
from ssl_sweep_local.losses import squared_error
from torch import Generator, Tensor, nn

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.models.decoders import mirrored_decoder
from ssl_sweep.models.encoders import Encoder

Noise = Annotated[float, Field(ge=0, description="standard deviation of the noise")]


class Method(nn.Module):
    def __init__(self, encoder: Encoder, *, noise: Noise = 0.1) -> None:
        super().__init__()
        self.encoder, self.decoder, self.noise = encoder, mirrored_decoder(encoder), noise

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        clean = augment.view(images, rng)
        noise = images.sampler(rng).randn(*clean.shape[1:])
        return {"input": clean + self.noise * noise, "target": clean}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.decoder(self.encoder.feature_map(batch["input"]))
        return squared_error(output, batch["target"]), {}
