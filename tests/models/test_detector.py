"""Faster R-CNN on our encoders: shapes, scales, and what is trained."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, box_iou

from ssl_sweep.models.detector import Detector, Neck
from ssl_sweep.models.encoders import ENCODERS

FP32 = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)
BF16 = partial(torch.autocast, "cpu", torch.bfloat16)
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0], [30.0, 10.0, 60.0, 50.0]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def detector(
    name: str = "resnet18",
    neck: Neck = "c4",
    *,
    image_size: int = 96,
    width: int = 4,
    image_side: int = 64,
    freeze: bool = False,
    autocast: partial[torch.autocast] = FP32,
) -> Detector:
    torch.manual_seed(0)
    encoder = ENCODERS[name](image_size, width=width, normalize="imagenet")
    return Detector(
        encoder, 2, neck=neck, image_side=image_side, proposals=40, freeze_batchnorm=freeze, autocast=autocast
    )


def photos() -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.rand(3, 64, 96, generator=rng), torch.rand(3, 80, 64, generator=rng)]


@pytest.mark.parametrize("neck", ["c4", "fpn"])
@pytest.mark.parametrize("image_size", [32, 96])  # the small stem, the ImageNet stem
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_losses_reach_every_parameter_and_boxes_lie_in_the_images(name: str, neck: Neck, image_size: int) -> None:
    model = detector(name, neck, image_size=image_size)
    losses = model.losses(photos(), TARGETS)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    untouched = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert untouched == []
    for image, found in zip(photos(), model.detect(photos()), strict=True):
        height, width = image.shape[1:]
        assert found["boxes"].min() >= 0
        assert (found["boxes"].max(dim=0).values <= torch.tensor([width, height, width, height])).all()
        assert set(found["labels"].tolist()) <= {1, 2}


@pytest.mark.parametrize("image_size", [32, 96])
@pytest.mark.parametrize("side", [33, 64, 65, 97])  # padded to whole steps, which must not be taken for another stride
@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_maps_have_the_strides_that_regions_are_pooled_by(neck: Neck, side: int, image_size: int) -> None:
    rcnn = detector(neck=neck, image_size=image_size).rcnn.eval()
    padded, _ = rcnn.transform([torch.zeros(3, side, side)])
    maps = rcnn.backbone(padded.tensors)
    maps = {"0": maps} if isinstance(maps, Tensor) else maps
    first = 1 if image_size == 32 else 4
    strides = [first * 4] if neck == "c4" else [first * 2**level for level in range(5)]
    assert [padded.tensors.shape[-1] / x.shape[-1] for x in maps.values()] == strides
    assert rcnn.roi_heads.box_roi_pool.scales == [1 / stride for stride in strides[:4]]
    anchors = rcnn.rpn.anchor_generator(padded, list(maps.values()))[0]
    assert len(anchors) == sum(x.shape[-1] * x.shape[-2] for x in maps.values()) * (15 if neck == "c4" else 3)


def test_anchors_and_levels_at_the_usual_side_are_torchvisions() -> None:
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    ours = detector("resnet50", "fpn", image_side=800).rcnn
    for mine, other in zip(
        ours.rpn.anchor_generator.cell_anchors, theirs.rpn.anchor_generator.cell_anchors, strict=True
    ):
        torch.testing.assert_close(mine, other)
    regions = [torch.tensor([[0.0, 0.0, side, side]]) for side in (60.0, 150.0, 300.0, 700.0)]
    levels = ours.roi_heads.box_roi_pool.map_levels
    assert levels(regions).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("training", "kept"), [(True, 80), (False, 40)])
def test_c4_compares_six_boxes_for_each_that_it_keeps(training: bool, kept: int) -> None:
    rpn = detector(neck="c4").rcnn.rpn.train(training)  # torchvision's own numbers are meant for each of five maps
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (6 * kept, kept)


def test_with_torchvisions_weights_it_finds_and_loses_what_torchvisions_detector_does() -> None:
    model = detector("resnet50", "fpn", image_side=128, width=64)
    ours = model.rcnn
    torch.manual_seed(3)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=128,
        max_size=213,
        size_divisible=64,
        rpn_anchor_generator=AnchorGenerator(((5.12,), (10.24,), (20.48,), (40.96,), (81.92,)), ((0.5, 1.0, 2.0),) * 5),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=36),
        rpn_post_nms_top_n_train=80,
        rpn_post_nms_top_n_test=40,
        box_batch_size_per_image=20,
    )
    state = theirs.state_dict()
    for part in ("backbone", "roi_heads.box_head"):
        state = {name.replace(f"{part}.", f"{part}.module."): value for name, value in state.items()}
    ours.load_state_dict(state)
    images = [torch.rand(3, 128, 192, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    for mine, other in zip(model.detect(images), theirs.eval()(images), strict=True):
        assert len(other["boxes"]) > 5
        for name, value in other.items():
            torch.testing.assert_close(mine[name], value)
    losses = []
    for net in (model.train().losses, theirs.train()):
        torch.manual_seed(5)
        losses.append(net(images, TARGETS))
    torch.testing.assert_close(*losses)


def test_the_map_of_the_encoder_is_the_backbones() -> None:
    model = detector(image_side=96).eval()
    rcnn = model.rcnn
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    encoder = ENCODERS["resnet18"](96, width=4, normalize="imagenet").eval()
    padded, _ = rcnn.transform(list(image))
    last = rcnn.roi_heads.box_head.module[0](rcnn.backbone(padded.tensors))
    torch.testing.assert_close(last, encoder.feature_map(image))


def test_frozen_normalisation_keeps_its_numbers() -> None:
    model = detector(freeze=True)
    before = {name: value.clone() for name, value in model.state_dict().items() if "bn" in name}
    assert len(before) > 50
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    sum(model.losses(photos(), TARGETS).values()).backward()
    optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    kinds = {type(module) for module in model.modules()}
    assert FrozenBatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds


def test_half_precision_ends_before_boxes_and_losses() -> None:
    half, full = (detector(autocast=each) for each in (BF16, FP32))
    torch.manual_seed(1)
    with BF16():  # as the training loop calls it
        losses = half.losses(photos(), TARGETS)
    torch.manual_seed(1)
    expected = full.losses(photos(), TARGETS)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    theirs, ours = (each["loss_classifier"].item() for each in (expected, losses))
    assert ours == pytest.approx(theirs, rel=0.05)
    assert ours != theirs
    assert half.detect(photos())[0]["boxes"].dtype == torch.float32


@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_it_learns_where_one_object_is(neck: Neck) -> None:
    model = detector(neck=neck, image_size=32, width=4)
    image, truth = torch.zeros(3, 64, 64), torch.tensor([[16.0, 20.0, 40.0, 44.0]])
    image[:, 20:44, 16:40] = 1
    target = {"boxes": truth, "labels": torch.tensor([2])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(40):
        optimizer.zero_grad()
        sum(model.losses([image, image], [target, target]).values()).backward()
        optimizer.step()
    (found,) = model.detect([image])
    assert found["labels"][0] == 2
    assert box_iou(found["boxes"][:1], truth) > 0.6


@pytest.mark.parametrize("name", ["vit_tiny", "drlim"])
def test_another_encoder_is_refused(name: str) -> None:
    encoder = ENCODERS[name](32)
    kind = type(encoder).__name__
    with pytest.raises(ValueError, match=f"detection: encoder is a {kind}; use resnet18, resnet34 or resnet50"):
        Detector(encoder, 2, neck="c4", image_side=64, proposals=10, freeze_batchnorm=False, autocast=FP32)
