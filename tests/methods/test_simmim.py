"""SimMIM: the loss to the formula, that masked pixels stay hidden, and what it shows."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.simmim import Method, default_mask_patch
from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder


def build(name: str = "resnet18", **knobs: object) -> Method:
    """Sixteen patches of 4x4, of which ten are masked; both encoders have cells of their own."""
    torch.manual_seed(0)
    encoders = {"resnet18": {"width": 8}, "vit_tiny": {"patch_size": 4}}
    return Method(ENCODERS[name](16, **encoders[name]), **{"mask_patch": 4} | knobs)


def draw(method: Method, images: Images, **knobs: float) -> dict[str, Tensor]:
    return method.views(images, Augment(16, **knobs), Generator().manual_seed(2))


def predicted(method: Method, features: Tensor) -> np.ndarray:
    """The head by hand: each cell's features times the weights are its r x r pixels, channel by channel."""
    weight, bias = method.head.weight[:, :, 0, 0].numpy(), method.head.bias.numpy()
    count, _, height, width = features.shape
    side = 16 // height
    images = np.zeros((count, 3, 16, 16))
    for image in range(count):
        for y in range(height):
            for x in range(width):
                cell = weight @ features[image, :, y, x].numpy() + bias
                place = (image, slice(None), slice(side * y, side * (y + 1)), slice(side * x, side * (x + 1)))
                images[place] = cell.reshape(3, side, side)
    return images


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "fill"), [("resnet18", "mean"), ("resnet18", "zero"), ("vit_tiny", "token"), ("vit_tiny", "mean")]
)
def test_the_loss_is_the_papers(images: Images, name: str, fill: str) -> None:
    """Xie et al. 2022, section 3.4: L1 over the masked pixels, over their number."""
    method = build(name, mask_fill=fill).double()
    batch = draw(method, images)
    batch |= {view: batch[view].double() for view in ("input", "target")}
    given, mask = batch["input"].numpy().copy(), batch["mask"].numpy()[:, 0]
    if fill == "token":
        net = method.encoder.net
        rows = net.conv_proj(batch["input"]).flatten(2).transpose(1, 2)  # (B, 16, D)
        for image in range(8):
            for number in range(16):
                if mask[image, 4 * (number // 4), 4 * (number % 4)]:
                    rows[image, number] = method.mask_token
        sequence = torch.cat([net.class_token.expand(8, -1, -1), rows], dim=1) + net.encoder.pos_embedding
        tokens = net.encoder.ln(net.encoder.layers(sequence))[:, 1:]
        features = tokens.transpose(1, 2).reshape(8, -1, 4, 4)
    else:
        for image in range(8):
            for channel in range(3):
                plane = given[image, channel]
                plane[mask[image]] = plane[~mask[image]].mean() if fill == "mean" else 0.0
        features = method.encoder.feature_map(torch.from_numpy(given))
    errors = np.abs(predicted(method, features) - batch["target"].numpy())
    expected = sum(errors[:, channel][mask].sum() for channel in range(3)) / (3 * mask.sum())
    loss, scalars = method.loss(batch)
    assert mask.sum() == 8 * 10 * 16
    assert abs(loss - expected) < 1e-10
    assert set(scalars) == {"feature_std"}


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_masked_pixels_change_neither_features_nor_their_neighbours_targets(images: Images, name: str) -> None:
    method = build(name).eval()
    batch = draw(method, images)
    image = batch["input"].clone().requires_grad_()
    method.loss({**batch, "input": image})[0].backward()
    hidden = batch["mask"].expand_as(image)
    assert not image.grad[hidden].any()
    assert image.grad[~hidden].any()


def test_ten_of_sixteen_patches_are_masked_anew_for_each_image(images: Images) -> None:
    mask = draw(build(), images)["mask"]
    patches = mask[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)  # (B, 4, 4, 16)
    assert torch.equal(patches.any(dim=3), patches.all(dim=3))
    assert patches.all(dim=3).sum(dim=(1, 2)).tolist() == [10] * 8
    assert len({tuple(row.flatten().tolist()) for row in mask}) > 6


@pytest.mark.parametrize(
    ("size", "cell", "side"),
    [
        (192, 1, 32),
        (192, 16, 32),
        (224, 1, 32),
        (224, 16, 32),
        (96, 1, 16),
        (64, 8, 8),
        (32, 1, 4),
        (32, 4, 4),
        (16, 4, 4),
    ],
)
def test_the_masks_patches_are_a_sixth_of_the_side(size: int, cell: int, side: int) -> None:
    assert default_mask_patch(size, cell) == side


def test_the_default_fits_the_encoder() -> None:
    assert build(mask_patch=None).mask_patch == 2
    assert build("vit_tiny", mask_patch=None).mask_patch == 4
    assert build("vit_tiny", mask_patch=None).mask_fill == "token"
    assert not hasattr(build(), "mask_token")


def test_a_stride_that_does_not_divide_the_side_predicts_every_pixel() -> None:
    torch.manual_seed(0)
    method = Method(ENCODERS["resnet18"](20, width=8))  # a map of 3x3: 7 pixels a cell
    assert method.predict(method.encoder.feature_map(torch.rand(2, 3, 20, 20))).shape == (2, 3, 20, 20)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_ten_steps_improve_the_prediction(images: Images, name: str) -> None:
    method = build(name)
    batch = draw(method, images)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    first = method.loss(batch)[0].item()
    for _ in range(10):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert method.loss(batch)[0].item() < 0.9 * first


@torch.no_grad()
def test_the_grid_shows_targets_what_is_visible_and_the_filling(images: Images) -> None:
    method = build().eval()
    batch = draw(method, images)
    target, seen, filled = method.visualize(batch).chunk(3)
    hidden = batch["mask"].expand_as(target)
    assert torch.equal(target, batch["target"])
    assert torch.equal(seen[~hidden], target[~hidden])
    assert (seen[hidden] == 0.5).all()
    output = method.predict(method.features(batch["input"], batch["mask"])).clamp(0, 1)
    torch.testing.assert_close(filled, torch.where(hidden, output, target))


def test_an_overlay_is_in_the_input_and_not_in_the_target(images: Images) -> None:
    some = Images(images.pixels[:2], images.sizes[:2])
    batch = draw(build(), some, overlay_alpha=0.3, crop_scale_min=1.0, flip=0.0)
    clean = images.pixels[:2] / 255
    torch.testing.assert_close(batch["target"], clean)
    torch.testing.assert_close(batch["input"], 0.3 * clean.flip(0) + 0.7 * clean)


def test_an_encoder_of_a_library_sees_the_mean(images: Images) -> None:
    method = Method(build_encoder({"name": "timm/mobilenetv3_small_050"}, 16))
    assert method.mask_fill == "mean"
    assert bool(method.loss(draw(method, images))[0].isfinite())


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [
        (
            "resnet18",
            {"mask_fill": "token"},
            "mask_fill: token needs vit_tiny, vit_small or vit_base as encoder, not Res",
        ),
        (
            "vit_tiny",
            {"mask_patch": 2},
            "mask_patch: 2 is not a multiple of the transformer's patches of 4 pixels; take 4",
        ),
        ("resnet18", {"mask_patch": 5}, "mask_patch: 5 does not divide the image size 16"),
        ("resnet18", {"mask_ratio": 0.99}, "mask_ratio: 0.99 of 16 patches masks 16"),
        ("resnet18", {"mask_ratio": 0.01}, "mask_ratio: 0.01 of 16 patches masks 0"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(name: str, knobs: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **knobs)


def test_a_transformer_can_have_other_masks_on_its_pixels(encoder: Encoder) -> None:
    assert build("vit_tiny", mask_patch=2, mask_fill="mean").mask_patch == 2
