"""Faster R-CNN on a ResNet encoder, built from torchvision's parts.

Source: Ren, He, Girshick & Sun 2015, "Faster R-CNN"; C4: the box head is the ResNet's last stage (He et al. 2016,
appendix A); FPN: Lin et al. 2017, "Feature Pyramid Networks for Object Detection".
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from ssl_sweep.models.precision import full_precision
from ssl_sweep.models.resnet import ResNetEncoder

REFERENCE_SIDE = 800  # pixels: short side of images for which anchors of 32 to 512 and the pyramid's 224 are meant
ANCHORS = (32, 64, 128, 256, 512)
CANONICAL_BOX = 224  # a region of this side is pooled from the pyramid's third level
RATIOS = (0.5, 1.0, 2.0)
CANDIDATES = 6  # boxes before non-maximum suppression, per box after it, as in Detectron's C4
MAX_ASPECT = 5 / 3  # longer sides are shrunk to this multiple of the short side, as 1333 is of 800

Neck = Literal["c4", "fpn"]
Autocast = Callable[[], torch.autocast]


class Detector(nn.Module):
    """Images of any sizes -> losses in training, boxes in evaluation.

    Args:
        encoder: the backbone, trained with the rest; it normalises its input.
        num_classes: without the background.
        neck: c4: regions are proposed and pooled on the third stage's map, and the fourth stage is the box head; fpn:
            on a pyramid of all stages, with a box head of two linear layers.
        image_side: short side in pixels that images are scaled to; anchors and pooling scale with it.
        proposals: regions per image that are classified in evaluation; half as many are sampled in training.
        freeze_batchnorm: keep the encoder's statistics and affine parameters.
        autocast: precision of the backbone and the box head; boxes and losses are in fp32.

    Raises ValueError if the encoder is not a ResNet.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        *,
        neck: Neck,
        image_side: int,
        proposals: int,
        freeze_batchnorm: bool,
        autocast: Autocast,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, ResNetEncoder):
            raise ValueError(f"detection: encoder is a {type(encoder).__name__}; use resnet18, resnet34 or resnet50")
        if freeze_batchnorm:
            _freeze(encoder)
        parts = (
            _c4(encoder, num_classes, image_side, proposals) if neck == "c4" else _fpn(encoder, num_classes, image_side)
        )
        parts["backbone"] = _InPrecision(parts["backbone"], autocast)
        parts["box_head"] = _InPrecision(parts["box_head"], autocast)
        self.rcnn = FasterRCNN(  # type: ignore[no-untyped-call]
            **parts,
            min_size=image_side,
            max_size=int(image_side * MAX_ASPECT),
            image_mean=(0.0, 0.0, 0.0),  # the encoder normalises
            image_std=(1.0, 1.0, 1.0),
            rpn_post_nms_top_n_train=2 * proposals,
            rpn_post_nms_top_n_test=proposals,
            box_batch_size_per_image=max(1, proposals // 2),
        )

    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The four losses; images (3, H, W) in [0, 1], targets with boxes (K, 4) in pixels and labels (K,) from 1.

        Regions are sampled by torch's global generator: torchvision accepts no other, and `fit` saves its state.
        """
        with full_precision(images[0]):
            losses: dict[str, Tensor] = self.rcnn(images, targets)
        return losses

    @torch.no_grad()
    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes (K, 4) in each image's own pixels, labels (K,) and scores (K,), at most 100, in evaluation mode."""
        self.eval()
        with full_precision(images[0]):
            detections: list[dict[str, Tensor]] = self.rcnn(images)
        return detections


class _InPrecision(nn.Module):
    """Runs a module in the stage's precision and returns fp32: bf16 rounds pixels above 256 to even numbers."""

    def __init__(self, module: Any, autocast: Autocast) -> None:
        super().__init__()
        self.module, self.autocast = module, autocast
        self.out_channels = getattr(module, "out_channels", None)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        with self.autocast():
            features = self.module(x)
        return features.float() if isinstance(features, Tensor) else {name: x.float() for name, x in features.items()}


def _c4(encoder: ResNetEncoder, num_classes: int, image_side: int, proposals: int) -> dict[str, Any]:
    stages = _stages(encoder)
    head = stages.pop("layer4")
    body = nn.Sequential(stages)
    body.out_channels = _channels(encoder)[2]  # type: ignore[assignment]
    stride = _strides(encoder)[2]
    return {
        "backbone": body,
        "rpn_anchor_generator": _anchors([ANCHORS], image_side),
        "rpn_pre_nms_top_n_train": CANDIDATES * 2 * proposals,
        "rpn_pre_nms_top_n_test": CANDIDATES * proposals,
        "box_roi_pool": _pool({"0": stride}, 14, image_side),
        "box_head": nn.Sequential(head, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "box_predictor": FastRCNNPredictor(encoder.feature_dim, num_classes + 1),  # type: ignore[no-untyped-call]
        "size_divisible": stride,
    }


def _fpn(encoder: ResNetEncoder, num_classes: int, image_side: int) -> dict[str, Any]:
    strides, channels = _strides(encoder), 4 * encoder.width  # 256 for the usual ResNets
    levels = {f"layer{number + 1}": str(number) for number in range(4)}
    hidden = 4 * channels
    return {
        "backbone": BackboneWithFPN(nn.Sequential(_stages(encoder)), levels, _channels(encoder), channels),
        "rpn_anchor_generator": _anchors([(size,) for size in ANCHORS], image_side),
        "box_roi_pool": _pool({str(level): stride for level, stride in enumerate(strides)}, 7, image_side),
        "box_head": TwoMLPHead(channels * 7**2, hidden),  # type: ignore[no-untyped-call]
        "box_predictor": FastRCNNPredictor(hidden, num_classes + 1),  # type: ignore[no-untyped-call]
        "size_divisible": 2 * strides[-1],  # the pyramid's last level halves the last stage's map once more
    }


def _stages(encoder: ResNetEncoder) -> "OrderedDict[str, nn.Module]":
    """The encoder's layers by name, preceded by its normalisation."""
    return OrderedDict([("normalize", encoder.normalize), *encoder.net.named_children()])


def _strides(encoder: ResNetEncoder) -> list[int]:
    """Input pixels per step of each stage's map."""
    first = 1 if encoder.small_stem else 4
    return [first * 2**stage for stage in range(4)]


def _channels(encoder: ResNetEncoder) -> list[int]:
    return [encoder.feature_dim // 2**stage for stage in (3, 2, 1, 0)]


def _anchors(sizes: list[tuple[int, ...]], image_side: int) -> AnchorGenerator:
    scaled = tuple(tuple(size * image_side / REFERENCE_SIDE for size in level) for level in sizes)
    return AnchorGenerator(scaled, (RATIOS,) * len(scaled))  # type: ignore[no-untyped-call]


def _pool(strides: dict[str, int], output_size: int, image_side: int) -> MultiScaleRoIAlign:
    """Region pooling from maps of these strides; a region's level depends on its share of the image."""
    first = min(strides.values()).bit_length() - 1
    pool = MultiScaleRoIAlign(
        list(strides),
        output_size,
        sampling_ratio=2,
        canonical_scale=max(1, round(CANONICAL_BOX * image_side / REFERENCE_SIDE)),
        canonical_level=first + 2,
    )
    # the pool infers the strides from its first maps, which padding can distort: the first maps here are exact
    side = max(strides.values())
    pool(
        {name: torch.zeros(1, 1, side // step, side // step) for name, step in strides.items()},
        [torch.zeros(1, 4)],
        [(side, side)],
    )
    return pool


def _freeze(module: nn.Module) -> None:
    """Replace every batch normalisation by a fixed one of the same parameters and statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze(child)
