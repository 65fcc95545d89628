"""AutoAugment's operators, table and composition against torchvision's, on bytes."""

from collections.abc import Callable
from math import atan, degrees

import pytest
import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms.v2 import functional as tv

from ssl_sweep.data.autoaugment import NAMES, OPERATORS, POLICY, SIGNED, apply_policy, draw_policy, magnitude_of


def shear_x(image: Tensor, level: float) -> Tensor:
    return tv.affine(image, 0.0, [0, 0], 1.0, [degrees(atan(level)), 0.0], center=[0, 0])


THEIRS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "posterize": lambda image, m: tv.posterize(image, int(m)),
    "solarize": tv.solarize,
    "color": lambda image, m: tv.adjust_saturation(image, 1 + m),
    "contrast": lambda image, m: tv.adjust_contrast(image, 1 + m),
    "sharpness": lambda image, m: tv.adjust_sharpness(image, 1 + m),
    "rotate": tv.rotate,
    "shear_x": shear_x,
    "autocontrast": lambda image, _: tv.autocontrast(image),
    "equalize": lambda image, _: tv.equalize(image),
    "invert": lambda image, _: tv.invert(image),
}


def pictures(count: int, size: int = 32) -> Tensor:
    """Smooth, dim and flat images of bytes: what contrast and equalisation work on."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randint(10, 200, (count, 3, 5, 5), generator=rng).float()
    images = torch.nn.functional.interpolate(coarse, size, mode="bilinear").round().to(torch.uint8)
    images[0, 0] = 77
    return images


@pytest.mark.parametrize("size", [32, 21])
@pytest.mark.parametrize("name", NAMES)
def test_operators_are_torchvisions(name: str, size: int) -> None:
    images = pictures(20, size)
    magnitudes = [magnitude_of(name, level) for level in range(10)] * 2
    if name in SIGNED:
        magnitudes[10:] = [-m for m in magnitudes[10:]]
    changed = OPERATORS[name](images.float(), torch.tensor(magnitudes))
    expected = torch.stack([THEIRS[name](image, m) for image, m in zip(images, magnitudes, strict=True)]).float()
    assert torch.equal(changed, changed.round())
    off = (changed - expected).abs()
    if name in ("color", "contrast", "sharpness"):
        assert off.max() <= 1  # what should be a whole number may round to either side of it before it is cut off
        assert (off > 0).float().mean() < 0.05
    elif name == "shear_x":
        assert (off > 0).float().mean() < 0.01  # source places half-way between two pixels may fall to either
    else:
        assert off.max() == 0


def test_the_policy_is_torchvisions_table() -> None:
    names = {name.replace("_", ""): name for name in NAMES}
    theirs = AutoAugment(AutoAugmentPolicy.IMAGENET).policies
    expected = tuple(tuple((names[name.lower()], p, level or 0) for name, p, level in policy) for policy in theirs)
    assert expected == POLICY


def test_magnitudes_run_evenly_over_the_papers_ranges() -> None:
    assert [magnitude_of("posterize", level) for level in (0, 5, 9)] == [8, 6, 4]
    assert [magnitude_of("solarize", level) for level in (0, 3, 9)] == [255, 170, 0]
    assert magnitude_of("rotate", 9) == 30
    assert magnitude_of("shear_x", 3) == pytest.approx(0.1)
    assert magnitude_of("color", 9) == pytest.approx(0.9)
    assert magnitude_of("invert", 9) == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_every_sub_policy_in_one_batch(sign: int) -> None:
    images = pictures(len(POLICY))
    kinds = torch.tensor([[NAMES.index(name) for name, _, _ in policy] for policy in POLICY])
    signed = [[sign if name in SIGNED else 1 for name, _, _ in policy] for policy in POLICY]
    magnitudes = torch.tensor([[magnitude_of(name, level) for name, _, level in policy] for policy in POLICY])
    magnitudes *= torch.tensor(signed)
    kinds[3, 1] = kinds[7, 0] = -1
    changed = apply_policy(images.float() / 255, kinds, magnitudes) * 255
    for index, image in enumerate(images):
        expected = image
        for kind, magnitude in zip(kinds[index].tolist(), magnitudes[index].tolist(), strict=True):
            expected = THEIRS[NAMES[kind]](expected, magnitude) if kind >= 0 else expected
        off = (changed[index] - expected).abs()
        assert (off > 0.01).float().mean() < 0.12, POLICY[index]  # single bytes of rounding, as for one operator
        assert off.mean() < 0.15, POLICY[index]


def test_draws_follow_the_table() -> None:
    count = 50_000
    kinds, magnitudes = draw_policy(count, torch.Generator().manual_seed(0))
    for step in range(2):
        for kind, name in enumerate(NAMES):
            expected = sum(policy[step][1] for policy in POLICY if policy[step][0] == name) / len(POLICY)
            assert (kinds[:, step] == kind).float().mean() == pytest.approx(expected, abs=0.01)
    rotated = magnitudes[kinds == NAMES.index("rotate")]
    assert sorted(set(rotated.abs().tolist())) == pytest.approx([10, 30 * 8 / 9, 30])
    assert (rotated > 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert (magnitudes[kinds == NAMES.index("solarize")] >= 0).all()


def test_samples_without_an_operator_are_only_rounded_to_bytes() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = apply_policy(images, torch.full((4, 2), -1), torch.zeros(4, 2))
    torch.testing.assert_close(changed, (images * 255).round() / 255)
