"""The cost of a trial, computed from its config alone: unlike seconds it is the same on every machine."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_sweep.data.subset import subset_of
from ssl_sweep.knobs import methods
from ssl_sweep.knobs.objective import COSTS, COSTS_BY_EPOCHS, COSTS_BY_STEPS
from ssl_sweep.models.encoders import build_encoder

LENGTHS = (*COSTS_BY_EPOCHS, *COSTS_BY_STEPS)


def costs(config: Mapping[str, Any]) -> dict[str, float]:
    """`COSTS` of a resolved trial config; the encoder is built on the meta device, without memory.

    Million parameters of the encoder; billion multiply-adds (GMACs) of its forward pass for one image; then, where the
    length of pretraining is in epochs, these, and the encoder's GMACs for one view of a training image over all of
    them, times the fraction of `data.subset`; where it is in steps, these. All are 0 if the method does not pretrain.
    """
    size = config["data"]["image_size"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder = build_encoder(config["encoder"], size).eval()
        encoder(torch.empty(1, 3, size, size))
    gmacs = counter.get_total_flops() / 2e9  # a multiply-add is two operations
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    costs = dict(zip(COSTS, (parameters, gmacs, 0.0, 0.0, 0.0), strict=True))
    if not methods.pretrains(config["method"]["name"]):
        return costs
    steps, epochs = config["pretrain"].get("steps"), config["pretrain"]["epochs"]
    if steps is None:
        length = dict(zip(COSTS_BY_EPOCHS, (float(epochs), epochs * gmacs * _share(config)), strict=True))
    else:  # how many epochs these are depends on the number of images
        length = dict(zip(COSTS_BY_STEPS, (float(steps),), strict=True))
    return {name: value for name, value in costs.items() if name not in LENGTHS} | length


def _share(config: Mapping[str, Any]) -> float:
    """The share of the images that a subset keeps; of one by a threshold, all of them are the most."""
    subset = subset_of(config["data"])
    return 1.0 if subset is None or subset.fraction is None else subset.fraction
