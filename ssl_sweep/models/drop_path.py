"""Stochastic depth of an encoder's residual branches, set after it was built.

Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", arXiv:1603.09382.
"""

import torch
from torch import nn
from torchvision.models.vision_transformer import EncoderBlock
from torchvision.ops import StochasticDepth

BRANCHES = ("drop_path", "drop_path1", "drop_path2", "stochastic_depth")  # in timm's and torchvision's blocks


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Leave out each image's residual branches in training: never in the first block, with `rate` in the last.

    The rates rise linearly with depth. What a branch is scaled by keeps its mean. No weight gets another name.

    Raises:
        ValueError: the encoder has no such branches.
    """
    blocks = [branches for module in encoder.modules() if (branches := _branches(module))]
    if not blocks:
        remedy = "use a transformer, such as vit_tiny or one of timm, or leave it at 0"
        raise ValueError(f"drop_path: {type(encoder).__name__} has no residual branches that can be dropped; {remedy}")
    for branches, share in zip(blocks, torch.linspace(0, rate, len(blocks), device="cpu").tolist(), strict=True):
        for parent, name in branches:
            setattr(parent, name, StochasticDepth(share, "row"))


def _branches(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where a block has the layers that end its branches, as parent and name; none if it is no such block."""
    if isinstance(module, EncoderBlock):  # both branches end in a dropout, which is 0 in our encoders
        return [(module, "dropout"), (module.mlp, str(len(module.mlp) - 1))]
    return [(module, name) for name, _ in module.named_children() if name in BRANCHES]
