"""Crops, flips and overlays against torchvision's functional operators, given the same boxes."""

from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ssl_sweep.data.crop import draw_boxes
from ssl_sweep.data.eval_crop import EvalCrop, cut
from ssl_sweep.data.images import Images
from ssl_sweep.data.resample import (
    axis_taps,
    center,
    crop_window,
    mirrored,
    overlay,
    resample,
    same_place,
    whole_window,
)
from ssl_sweep.data.taps import Taps, filter_axes

SIZES = [(40, 56), (56, 33), (32, 32), (9, 50)]


def ragged(sizes: list[tuple[int, int]], *, padding: int = 0, seed: int = 0) -> Images:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.full((len(sizes), 3, max(h for h, _ in sizes), max(w for _, w in sizes)), padding, dtype=torch.uint8)
    for frame, (height, width) in zip(pixels, sizes, strict=True):
        frame[:, :height, :width] = torch.randint(0, 256, (3, height, width), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.tensor(sizes))


def one(images: Images, index: int) -> Tensor:
    """One image as torchvision takes it: (3, its height, its width) float32."""
    height, width = images.sizes[index].tolist()
    return images.pixels[index, :, :height, :width].float() / 255


@pytest.mark.parametrize("size", [8, 24, 32, 64])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_torchvisions(size: int, flip: bool) -> None:
    images = ragged(SIZES)
    boxes = torch.tensor([[0, 0, 40, 56], [11, 3, 29, 30], [31, 0, 1, 7], [2, 13, 7, 24]])
    views = resample(images.pixels, mirrored(crop_window(boxes), torch.full((4,), flip)), size)
    for index, box in enumerate(boxes.tolist()):
        expected = tv.resized_crop(one(images, index), *box, [size, size], antialias=True)
        expected = tv.horizontal_flip(expected) if flip else expected
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


def test_only_the_chosen_samples_are_flipped() -> None:
    images = ragged([(16, 16)] * 3)
    window = crop_window(torch.tensor([[2, 1, 9, 12]] * 3))
    plain = resample(images.pixels, window, 16)
    views = resample(images.pixels, mirrored(window, torch.tensor([True, False, True])), 16)
    torch.testing.assert_close(views, torch.stack([plain[0].flip(-1), plain[1], plain[2].flip(-1)]))


def test_a_crop_of_the_views_own_size_is_the_pixels_themselves() -> None:
    images = ragged([(20, 30)])
    view = resample(images.pixels, crop_window(torch.tensor([[3, 5, 16, 16]])), 16)
    torch.testing.assert_close(view[0], one(images, 0)[:, 3:19, 5:21], atol=1e-7, rtol=0)


def test_padding_never_shows() -> None:
    black, white = ragged(SIZES, padding=0), ragged(SIZES, padding=255)
    for window in (whole_window(black.sizes), crop_window(draw_boxes(black.sizes, torch.Generator(), 0.9, 1.0))):
        torch.testing.assert_close(
            resample(black.pixels, window, 32), resample(white.pixels, window, 32), atol=0, rtol=0
        )
    torch.testing.assert_close(center(black, 32), center(white, 32), atol=0, rtol=0)
    window, rows = whole_window(black.sizes), torch.tensor([1, 2, 3, 0])
    layered = [overlay(resample(i.pixels, window, 32), i, window, rows, 0.4) for i in (black, white)]
    torch.testing.assert_close(*layered, atol=0, rtol=0)


def test_a_batch_is_its_images_one_by_one() -> None:
    images = ragged(SIZES)
    boxes = draw_boxes(images.sizes, torch.Generator().manual_seed(1), 0.2, 1.0)
    views = resample(images.pixels, crop_window(boxes), 24)
    for index, (height, width) in enumerate(SIZES):
        alone = images.pixels[index : index + 1, :, :height, :width]
        view = resample(alone, crop_window(boxes[index : index + 1]), 24)
        torch.testing.assert_close(views[index : index + 1], view, atol=1e-6, rtol=0)


def test_a_large_batch_worked_off_in_parts_is_the_same() -> None:
    images = ragged([(64, 64)] * 50)
    boxes = draw_boxes(images.sizes, torch.Generator().manual_seed(1), 0.2, 1.0)
    views = resample(images.pixels, crop_window(boxes), 32)
    for index in (0, 20, 21, 22, 49):
        view = resample(images.pixels[index : index + 1], crop_window(boxes[index : index + 1]), 32)
        torch.testing.assert_close(views[index : index + 1], view, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [5, 16, 50])
def test_weights_are_a_mean_over_the_box(size: int) -> None:
    window = crop_window(torch.tensor([[3, 7, 20, 12], [0, 0, 40, 40], [39, 39, 1, 1]]))
    for axis, (low, length) in enumerate([(3, 20), (7, 12)]):
        taps = axis_taps(window, axis, 40, size)
        torch.testing.assert_close(taps.weights.sum(2), torch.ones(3, size))
        assert (taps.weights >= 0).all()
        dense = torch.zeros(3, size, 40).scatter_add_(2, taps.pixels, taps.weights)
        inside = torch.zeros(40, dtype=torch.bool)
        inside[low : low + length] = True
        assert (dense[0][:, ~inside] == 0).all()
        if size >= length:
            assert (dense[0][:, inside].sum(0) > 0).all()


def test_taps_are_a_matrix_of_each_sample() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 9, 7, generator=rng)
    down = Taps(torch.randint(9, (3, 5, 4), generator=rng), torch.rand(3, 5, 4, generator=rng))
    across = Taps(torch.randint(7, (3, 6, 2), generator=rng), torch.rand(3, 6, 2, generator=rng))
    rows = torch.zeros(3, 5, 9).scatter_add_(2, down.pixels, down.weights)
    columns = torch.zeros(3, 6, 7).scatter_add_(2, across.pixels, across.weights)
    expected = torch.einsum("bsh,bchw,btw->bcst", rows, images, columns)
    torch.testing.assert_close(filter_axes(images, down, across), expected)


@pytest.mark.parametrize("size", [16, 32, 41, 64])
def test_center_is_torchvisions_resize_and_center_crop(size: int) -> None:
    images = ragged([*SIZES, (41, 100), (100, 41), (37, 38)])
    views = center(images, size)
    for index in range(len(views)):
        expected = tv.center_crop(tv.resize(one(images, index), [size], antialias=True), [size, size])
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("resize", "size"), [(32, 28), (256, 224), (48, 48), (70, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_eval_crop_is_torchvisions_resize_and_center_crop(resize: int, size: int, interpolation: Any) -> None:
    images = ragged([*SIZES, (41, 100), (300, 410), (500, 333)])
    views = cut(images, EvalCrop(resize=resize, crop=size, interpolation=interpolation).at(size))
    for index in range(len(views)):
        exact = one(images, index).double()  # in float32 torchvision rounds the places of far pixels
        resized = tv.resize(exact, [resize], tv.InterpolationMode(interpolation), antialias=True)
        expected = tv.center_crop(resized, [size, size]).clamp(0, 1).float()
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


def test_the_default_crop_is_the_papers_from_64_pixels_on() -> None:
    assert EvalCrop().at(224) == (256, 224, "bicubic")
    assert EvalCrop().at(64) == (73, 64, "bicubic")
    assert EvalCrop().at(32) == (32, 32, "bilinear")
    assert EvalCrop(crop=288).at(224) == (329, 288, "bicubic")
    assert EvalCrop(resize=36, interpolation="bicubic").at(32) == (36, 32, "bicubic")
    with pytest.raises(ValueError, match="resize: 200 is below the crop, 224; raise resize"):
        EvalCrop(resize=200).at(224)


def test_whole_is_torchvisions_resize() -> None:
    images = ragged(SIZES)
    views = resample(images.pixels, whole_window(images.sizes), 32)
    for index in range(len(SIZES)):
        expected = tv.resize(one(images, index), [32, 32], antialias=True)
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


def test_overlay_before_the_crop_on_equal_sizes() -> None:
    images = ragged([(37, 53)] * 5)
    boxes = draw_boxes(images.sizes, torch.Generator().manual_seed(3), 0.2, 1.0)
    window = mirrored(crop_window(boxes), torch.tensor([True, False, True, False, True]))
    rows = torch.tensor([3, 0, 4, 2, 1])
    views = overlay(resample(images.pixels, window, 24), images, window, rows, 0.3)
    for index, box in enumerate(boxes.tolist()):
        blended = 0.3 * one(images, int(rows[index])) + 0.7 * one(images, index)
        expected = tv.resized_crop(blended, *box, [24, 24], antialias=True)
        expected = tv.horizontal_flip(expected) if index % 2 == 0 else expected
        torch.testing.assert_close(views[index], expected, atol=1e-5, rtol=0)


def test_overlay_stretches_an_image_of_another_size() -> None:
    # smooth images, so that stretching first and cropping then differs from doing both at once by little
    y, x = torch.meshgrid(torch.linspace(0, 1, 60), torch.linspace(0, 1, 90), indexing="ij")
    pixels = torch.zeros(2, 3, 60, 90, dtype=torch.uint8)
    pixels[0, :, :40, :50] = 128
    pixels[1] = torch.stack([255 * y, 255 * x, 255 * x * y]).round()
    images = Images(pixels, torch.tensor([[40, 50], [60, 90]]))
    window = crop_window(torch.tensor([[5, 12, 30, 35], [0, 0, 60, 90]]))
    view = overlay(resample(pixels, window, 20), images, window, torch.tensor([1, 0]), 0.4)[0]
    stretched = tv.resize(one(images, 1), [40, 50], antialias=True)
    blended = 0.4 * stretched + 0.6 * one(images, 0)
    expected = tv.resized_crop(blended, 5, 12, 30, 35, [20, 20], antialias=True)
    torch.testing.assert_close(view, expected, atol=0.01, rtol=0)
    assert (view - resample(pixels, window, 20)[0]).abs().max() > 0.05


def test_same_place_keeps_whole_pixels_where_the_sizes_are_equal() -> None:
    sizes = torch.tensor([[37, 53]] * 200)
    window = crop_window(draw_boxes(sizes, torch.Generator().manual_seed(0), 0.2, 1.0))
    for edge, other in zip(window, same_place(window, sizes, sizes), strict=True):
        assert torch.equal(edge, other)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 90), (400, 100)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 0.5)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    crop = v2.RandomResizedCrop(1, scale=scale)
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [crop.make_params([image]) for _ in range(400)]
    expected = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in drawn])
    sizes = torch.tensor([[height, width]]).expand(4000, 2)
    boxes = draw_boxes(sizes, torch.Generator().manual_seed(1), *scale)
    assert (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    for ours, theirs in zip(boxes.T, expected.T, strict=True):
        assert kstest(ours.numpy(), theirs.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 200, (0, 93, 10, 13)), (200, 10, (93, 0, 13, 10))])
def test_box_of_an_image_that_no_ratio_fits_is_central(height: int, width: int, expected: tuple[int, ...]) -> None:
    boxes = draw_boxes(torch.tensor([[height, width]] * 4), torch.Generator().manual_seed(0), 1.0, 1.0)
    assert boxes.tolist() == [list(expected)] * 4


def test_boxes_reach_every_corner_but_never_leave() -> None:
    boxes = draw_boxes(torch.tensor([[8, 8]] * 5000), torch.Generator().manual_seed(0), 0.5, 0.6)
    room = 8 - boxes[:, 2:]
    assert ((boxes[:, :2] == room) & (room > 0)).any()
    assert ((boxes[:, :2] == 0) & (room > 0)).any()
    assert (boxes[:, :2] <= room).all()
