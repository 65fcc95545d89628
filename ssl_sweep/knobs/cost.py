"""The cost of a trial, computed from its config alone: unlike seconds it is the same on every machine."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_sweep.knobs import methods
from ssl_sweep.knobs.objective import COSTS
from ssl_sweep.models.encoders import build_encoder


def costs(config: Mapping[str, Any]) -> dict[str, float]:
    """`COSTS` of a resolved trial config; the encoder is built on the meta device, without memory.

    Million parameters of the encoder; billion multiply-adds (GMACs) of its forward pass for one image; epochs of
    pretraining, 0 if the method does not pretrain; and the encoder's GMACs for one view of a training image over all
    these epochs.
    """
    size = config["data"]["image_size"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder = build_encoder(config["encoder"], size).eval()
        encoder(torch.empty(1, 3, size, size))
    gmacs = counter.get_total_flops() / 2e9  # a multiply-add is two operations
    epochs = float(config["pretrain"]["epochs"]) if methods.pretrains(config["method"]["name"]) else 0.0
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    return dict(zip(COSTS, (parameters, gmacs, epochs, epochs * gmacs), strict=True))
