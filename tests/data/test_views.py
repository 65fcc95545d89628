"""Whole views: what a knob does to them, what they share, and that the same generator gives the same view."""

import inspect
from dataclasses import replace

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from ssl_sweep.data.images import Images
from ssl_sweep.data.mask import MaskFill, draw_fill, draw_mask
from ssl_sweep.data.views import Augment, center

EVERYTHING = Augment(
    16,
    overlay_alpha=0.3,
    mask_ratio=0.25,
    mask_patch=4,
    mask_fill="other",
    auto_augment=True,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    gray=0.2,
    blur=0.5,
    solarize=0.2,
)
STILL = Augment(16, flip=0.0, crop_scale_min=1.0)


def photos(count: int = 12, height: int = 20, width: int = 26) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.tensor([[height, width]]).expand(count, 2))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_views_with_everything_on_are_images(count: int) -> None:
    images = photos(count)
    before = images.pixels.clone()
    views = [EVERYTHING.view(images, seeded()), EVERYTHING.whole(images, seeded()), *EVERYTHING.pair(images, seeded())]
    for view in views:
        assert view.shape == (count, 3, 16, 16)
        assert view.dtype == torch.float32
        assert view.is_contiguous()
        assert 0 <= view.min() < view.max() <= 1
    assert torch.equal(images.pixels, before)


@pytest.mark.parametrize("augment", [Augment(16), EVERYTHING])
def test_the_same_generator_gives_the_same_view(augment: Augment) -> None:
    images = photos()
    rng = seeded()
    first, second = augment.view(images, rng), augment.view(images, rng)
    assert torch.equal(first, augment.view(images, seeded()))
    assert not torch.equal(first, second)
    assert torch.equal(augment.whole(images, seeded()), augment.whole(images, seeded()))


def test_views_drawn_under_autocast_are_the_same() -> None:
    images = photos(60)
    everything = replace(EVERYTHING, blur=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        views = [*everything.pair(images, seeded()), everything.whole(images, seeded()), center(images, 16)]
    plain = [*everything.pair(images, seeded()), everything.whole(images, seeded()), center(images, 16)]
    for view, expected in zip(views, plain, strict=True):
        assert torch.equal(view, expected)


def test_what_is_off_draws_nothing_and_changes_nothing() -> None:
    images, rng, plain_rng = photos(), seeded(), seeded()
    off = Augment(16, jitter_probability=0.0, brightness=0.4, hue=0.1, mask_patch=5, mask_fill="other")
    assert torch.equal(off.view(images, rng), Augment(16).view(images, plain_rng))
    assert torch.equal(rng.get_state(), plain_rng.get_state())


def test_views_see_the_same_crops_whatever_corrupts_them() -> None:
    images = photos()
    plain = Augment(16).view(images, seeded())
    for augment in (EVERYTHING, Augment(16, overlay_alpha=0.4), Augment(16, mask_ratio=0.5)):
        corrupted, clean = augment.pair(images, seeded())
        assert torch.equal(clean, plain)
        assert torch.equal(corrupted, augment.view(images, seeded()))
        assert not torch.equal(corrupted, clean)


def test_without_crop_and_flip_a_view_of_a_square_is_the_image() -> None:
    images = photos(height=16, width=16)
    torch.testing.assert_close(STILL.view(images, seeded()), images.pixels / 255)
    mirrored = replace(STILL, flip=1.0).view(images, seeded())
    torch.testing.assert_close(mirrored, images.pixels.flip(-1) / 255)


def test_flips_follow_their_probability() -> None:
    images = photos(height=16, width=16, count=2000)
    views = replace(STILL, flip=0.3).view(images, seeded())
    flipped = (views - images.pixels / 255).flatten(1).abs().amax(1) > 0.01
    assert flipped.float().mean() == pytest.approx(0.3, abs=0.04)


def test_overlay_adds_another_image_of_the_batch() -> None:
    images = photos(height=16, width=16)
    corrupted, clean = replace(STILL, overlay_alpha=0.3).pair(images, seeded())
    other = (corrupted - 0.7 * clean) / 0.3  # (B, 3, 16, 16)
    distances = (other.unsqueeze(1) - clean.unsqueeze(0)).flatten(2).abs().amax(2)  # (B, B)
    closest, index = distances.min(1)
    assert closest.max() < 1e-5
    assert (index != torch.arange(12)).all()


def test_overlay_of_a_lone_image_leaves_it() -> None:
    corrupted, clean = replace(STILL, overlay_alpha=0.3).pair(photos(1), seeded())
    torch.testing.assert_close(corrupted, clean)


def test_whole_is_the_resized_image_with_the_views_colours() -> None:
    images = photos()
    expected = tv.resize(images.pixels / 255, [16, 16], antialias=True)
    torch.testing.assert_close(STILL.whole(images, seeded()), expected, atol=1e-5, rtol=0)
    gray = replace(STILL, gray=1.0).whole(images, seeded())
    torch.testing.assert_close(gray, tv.rgb_to_grayscale(expected, 3), atol=1e-5, rtol=0)


def test_probability_one_means_every_sample() -> None:
    images = photos(height=16, width=16)
    clean = images.pixels / 255
    gray = replace(STILL, gray=1.0).view(images, seeded())
    torch.testing.assert_close(gray, tv.rgb_to_grayscale(clean, 3), atol=1e-5, rtol=0)
    solar = replace(STILL, solarize=1.0, solarize_threshold=0.25).view(images, seeded())
    torch.testing.assert_close(solar, tv.solarize(clean, 0.25), atol=1e-5, rtol=0)
    blurred = replace(STILL, blur=1.0, blur_sigma_min=0.8, blur_sigma_max=0.8).view(images, seeded())
    torch.testing.assert_close(blurred, tv.gaussian_blur(clean, [3, 3], [0.8, 0.8]), atol=1e-5, rtol=0)


def test_second_views_have_their_own_blur_and_solarisation() -> None:
    images = photos(height=16, width=16)
    augment = replace(STILL, blur=1.0, blur_second=0.0, blur_sigma_min=1.0, solarize=0.0, solarize_second=1.0)
    clean = images.pixels / 255
    first, second = augment.view(images, seeded()), augment.view(images, seeded(), second=True)
    torch.testing.assert_close(second, tv.solarize(clean, 0.5), atol=1e-6, rtol=0)
    assert (first - clean).flatten(1).abs().amax(1).min() > 0.01
    alike = replace(STILL, blur=1.0, solarize=0.3)
    assert torch.equal(alike.view(images, seeded()), alike.view(images, seeded(), second=True))


@pytest.mark.parametrize("ratio", [0.01, 0.04, 0.5, 0.95])
@pytest.mark.parametrize("patch", [1, 4, 8])
def test_masks_hide_their_exact_share_in_whole_patches(ratio: float, patch: int) -> None:
    mask = draw_mask(5, seeded(), 16, patch, ratio)
    assert mask.shape == (5, 1, 16, 16)
    blocks = mask.view(5, 16 // patch, patch, 16 // patch, patch).transpose(2, 3).flatten(3)
    assert torch.equal(blocks.any(3), blocks.all(3))
    assert blocks.all(3).flatten(1).sum(1).tolist() == [round(ratio * (16 // patch) ** 2)] * 5


def test_masks_differ_within_a_batch() -> None:
    assert len({tuple(mask.flatten().tolist()) for mask in draw_mask(5, seeded(), 16, 4, 0.25)}) == 5


def test_every_place_is_masked_alike() -> None:
    often = torch.stack([draw_mask(50, seeded(seed), 8, 2, 0.5) for seed in range(40)]).float().mean((0, 1, 2))
    torch.testing.assert_close(often, torch.full((8, 8), 0.5), atol=0.06, rtol=0)


@pytest.mark.parametrize("fill", ["zero", "mean", "other"])
def test_masked_places_show_the_fill(fill: MaskFill) -> None:
    images = photos(height=16, width=16)
    corrupted, clean = replace(STILL, mask_ratio=0.25, mask_patch=4, mask_fill=fill).pair(images, seeded())
    masked = (corrupted != clean).any(1)
    assert masked.flatten(1).sum(1).tolist() == [64] * 12
    for index in range(12):
        shown = corrupted[index][:, masked[index]]
        if fill == "zero":
            assert (shown == 0).all()
        elif fill == "mean":
            torch.testing.assert_close(shown, clean[index].mean((1, 2)).unsqueeze(1).expand(-1, 64))
        else:
            assert sum(torch.equal(shown, other[:, masked[index]]) for other in clean) == 1


def test_fills_of_a_lone_image() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(draw_fill(images, "other", seeded()), images)


def test_center_has_nothing_random() -> None:
    images = photos(height=20, width=20)
    torch.testing.assert_close(center(images, 20), images.pixels / 255)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"overlay_alpha": 0.5}, "overlay_alpha"),
        ({"overlay_alpha": -0.1}, "overlay_alpha"),
        ({"mask_ratio": 0.96}, "mask_ratio"),
        ({"mask_fill": "white"}, "mask_fill"),
        ({"hue": 0.6}, "hue"),
        ({"blur": 1.1}, "blur"),
        ({"blur_second": -1}, "blur_second"),
        ({"crop_scale_min": 0.0}, "crop_scale_min"),
        ({"crop_scale_min": 0.6, "crop_scale_max": 0.5}, "crop_scale_min: 0.6 is above crop_scale_max 0.5"),
        ({"blur_sigma_min": 3.0}, "blur_sigma_min: 3.0 is above blur_sigma_max 2.0"),
        ({"mask_ratio": 0.1, "mask_patch": 8}, "mask_ratio: 0.1 of 4 patches masks 0"),
        ({"mask_ratio": 0.9, "mask_patch": 8}, "mask_ratio: 0.9 of 4 patches masks 4"),
        ({"mask_ratio": 0.1, "mask_patch": 5}, "mask_patch: 5 does not divide the image size 16"),
    ],
)
def test_knobs_out_of_bounds_are_refused(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Augment(16, **knobs)  # type: ignore[arg-type]


def test_every_knob_is_keyword_only_and_described() -> None:
    parameters = dict(inspect.signature(Augment).parameters)
    assert parameters.pop("image_size").kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    for knob in parameters.values():
        assert knob.kind is inspect.Parameter.KEYWORD_ONLY
        assert any(getattr(item, "description", None) for item in knob.annotation.__metadata__), knob.name
