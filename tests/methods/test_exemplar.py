"""Exemplar-CNN: the loss to the formula, which image is which class, and what dropout drops."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.seed_patches import Ranges, busiest_corners, transformed_patches
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.exemplar import Method
from ssl_sweep.models.encoders import ENCODERS

NUMBERS = [0, 11, 4, 3, 7, 9, 2, 10]
STILL = {
    "shift": 0.0,
    "scale_min": 1.0,
    "scale_max": 1.0,
    "rotation": 0.0,
    "contrast": 1.0,
    "power": 1.0,
    "factor_min": 1.0,
    "factor_max": 1.0,
    "offset": 0.0,
    "hue": 0.0,
}


def build(**knobs: float) -> Method:
    torch.manual_seed(0)
    return Method(ENCODERS["exemplar"](16), **{"num_classes": 12} | knobs)


def numbered(images: Images) -> Images:
    return Images(images.pixels, images.sizes, torch.tensor(NUMBERS))


def draw(method: Method, images: Images, seed: int = 2) -> dict[str, Tensor]:
    return method.views(numbered(images), Augment(16, flip=0.0), Generator().manual_seed(seed))


@torch.no_grad()
def test_the_loss_is_the_papers(images: Images) -> None:
    """Dosovitskiy et al. 2014, equations 1 to 3: the negative logarithm of the softmax at the image's own number."""
    method = build().double()
    batch = draw(method, images)
    batch |= {name: batch[name].double() for name in ("patch", "kept")}
    features = method.encoder.feature_map(batch["patch"])[:, :, 0, 0]
    weight, bias = method.classifier.weight.tolist(), method.classifier.bias.tolist()
    total, right = 0.0, 0
    for number, row, kept in zip(NUMBERS, features.tolist(), batch["kept"].tolist(), strict=True):
        inputs = [value * factor for value, factor in zip(row, kept, strict=True)]
        logits = [sum(w * x for w, x in zip(ws, inputs, strict=True)) + b for ws, b in zip(weight, bias, strict=True)]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[number]
        right += logits.index(max(logits)) == number
    loss, scalars = method.loss(batch)
    assert abs(loss - total / 8) < 1e-10
    assert scalars["surrogate_top1"] == 100 * right / 8
    assert set(scalars) == {"surrogate_top1", "feature_std"}


def test_a_larger_map_is_averaged(images: Images) -> None:
    torch.manual_seed(0)
    method = Method(ENCODERS["resnet18"](16, width=8), num_classes=12, dropout=0.0).eval()
    batch = draw(method, images)
    expected = F.cross_entropy(method.classifier(method.encoder(batch["patch"])), batch["target"])
    torch.testing.assert_close(method.loss(batch)[0], expected)


def test_the_patch_is_the_transformed_busiest_one(images: Images) -> None:
    method = build(patch_size=9)
    batch, clean = draw(method, images), images.pixels / 255
    rng = Generator().manual_seed(2)
    Augment(16, flip=0.0).whole(images, rng)  # what it draws comes first
    drawn = method.ranges.draw(8, rng)
    torch.testing.assert_close(batch["patch"], transformed_patches(clean, busiest_corners(clean, 9), 9, drawn))
    assert torch.equal(batch["target"], torch.tensor(NUMBERS))
    assert method.ranges == Ranges(
        shift=0.2,
        scale_min=0.7,
        scale_max=1.4,
        rotation=20.0,
        contrast=2.0,
        power=4.0,
        factor_min=0.7,
        factor_max=1.4,
        offset=0.1,
        hue=0.1,
    )


def test_images_of_a_patch_or_less_are_patches_as_they_are(images: Images) -> None:
    batch = draw(build(**STILL), images)  # 16 pixels, where a patch would have 32
    torch.testing.assert_close(batch["patch"], images.pixels / 255, atol=1e-5, rtol=0)


def test_dropout_keeps_the_mean(images: Images) -> None:
    rng = Generator().manual_seed(0)
    kept = build(dropout=0.25).views(numbered(images), Augment(16), rng)["kept"]
    assert kept.shape == (8, 128)
    assert kept.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert abs(kept.mean() - 1) < 0.1
    assert (build(dropout=0.0).views(numbered(images), Augment(16), rng)["kept"] == 1).all()


def test_an_image_without_a_class_is_refused_with_a_remedy(images: Images) -> None:
    with pytest.raises(ValueError, match=r"there is no class for image 11 among 11; set method\.num_classes"):
        draw(build(num_classes=11), images)


def test_images_without_numbers_are_refused(images: Images) -> None:
    with pytest.raises(ValueError, match="the images have no indices"):
        build().views(images, Augment(16), Generator().manual_seed(0))


@pytest.mark.parametrize("knobs", [{"scale_min": 2.0}, {"factor_max": 0.5}])
def test_ranges_that_fall_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must not exceed scale_max .*; lower the minimum"):
        build(**knobs)


def test_sixty_steps_know_the_images_again() -> None:
    colors = torch.randint(256, (8, 3, 4, 4), generator=Generator().manual_seed(1)).float()
    pixels = F.interpolate(colors, size=16, mode="bilinear").to(torch.uint8)
    images = Images(pixels, torch.full((8, 2), 16), torch.arange(8))
    method = build(num_classes=8, dropout=0.0)
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    rng = Generator().manual_seed(0)
    known = []
    for _ in range(60):
        loss, scalars = method.loss(method.views(images, Augment(16, flip=0.0), rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        known.append(scalars["surrogate_top1"])
    assert torch.stack(known[:5]).mean() < 30  # chance is 12.5
    assert torch.stack(known[-10:]).mean() > 55
