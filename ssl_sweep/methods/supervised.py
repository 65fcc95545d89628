"""Supervised baseline: evaluations start from an untrained encoder."""

from torch import nn

from ssl_sweep.models.encoders import Encoder


class Method(nn.Module):
    """No pretraining: evaluations start from the random encoder.

    Source: the supervised baseline in Table 2 of Li, Ding & Wang 2023, "Transcending Masking with Paired Image
    Overlay", which is fine-tuning from scratch.
    """

    pretrains = False

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
