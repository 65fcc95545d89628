"""RandAugment's operators and magnitudes against torchvision's, on bytes, and its draws."""

from collections.abc import Callable
from math import atan, degrees

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ssl_sweep.data.randaugment import NAMES, OPERATORS, apply_randaugment, draw_randaugment, magnitude_of


def shear_y(image: Tensor, level: float) -> Tensor:
    return tv.affine(image, 0.0, [0, 0], 1.0, [0.0, degrees(atan(level))], center=[0, 0])


THEIRS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": lambda image, m: tv.adjust_brightness(image, 1 + m),
    "shear_y": shear_y,
    "translate_x": lambda image, m: tv.affine(image, 0.0, [int(m), 0], 1.0, [0.0, 0.0]),
    "translate_y": lambda image, m: tv.affine(image, 0.0, [0, int(m)], 1.0, [0.0, 0.0]),
}  # the others are AutoAugment's, which its tests compare


def pictures(count: int, size: int) -> Tensor:
    coarse = torch.randint(10, 200, (count, 3, 5, 5), generator=Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear").round().to(torch.uint8)


@pytest.mark.parametrize("size", [32, 21])
@pytest.mark.parametrize("name", THEIRS)
def test_operators_are_torchvisions(name: str, size: int) -> None:
    images = pictures(8, size)
    magnitudes = [sign * magnitude_of(name, level, size) for sign in (1, -1) for level in (0, 9, 17, 30)]
    changed = OPERATORS[name](images.float(), torch.tensor(magnitudes))
    expected = torch.stack([THEIRS[name](image, m) for image, m in zip(images, magnitudes, strict=True)]).float()
    off = (changed - expected).abs()
    if name == "brightness":
        assert off.max() <= 1  # what should be a whole number may round to either side of it before it is cut off
    assert (off > 0).float().mean() < 0.01


@pytest.mark.parametrize("level", [0, 9, 30])
def test_magnitudes_are_torchvisions(level: int) -> None:
    table = v2.RandAugment(magnitude=level)._AUGMENTATION_SPACE
    assert {name.replace("_", "") for name in NAMES} == {name.lower() for name in table} - {"identity"}
    for their_name, (magnitudes, _) in table.items():
        values = magnitudes(31, 40, 40)
        name = next((name for name in NAMES if name.replace("_", "") == their_name.lower()), None)
        if name is not None:
            expected = 0.0 if values is None else float(values[level]) * (255 if name == "solarize" else 1)
            assert magnitude_of(name, level, 40) == pytest.approx(expected, abs=1e-5), name


def test_each_image_draws_two_of_fourteen_with_either_sign() -> None:
    kinds, magnitudes = draw_randaugment(20_000, Generator().manual_seed(0), 9, 32)
    assert kinds.shape == magnitudes.shape == (20_000, 2)
    for kind in range(-1, len(NAMES)):
        assert (kinds == kind).float().mean() == pytest.approx(1 / 14, abs=0.005)
    turned = magnitudes[kinds == NAMES.index("rotate")]
    assert sorted(set(turned.tolist())) == [-9.0, 9.0]
    assert (turned > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    (threshold,) = set(magnitudes[kinds == NAMES.index("solarize")].tolist())
    assert threshold == pytest.approx(255 * 0.7)


def test_images_stay_images() -> None:
    images = pictures(64, 16).float() / 255
    changed = apply_randaugment(images, *draw_randaugment(64, Generator().manual_seed(1), 30, 16))
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed - images).abs().flatten(1).amax(dim=1).gt(0.01).sum() > 50
