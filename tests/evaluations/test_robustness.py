"""Crops against torchvision's, changes against its operators, and a probe that only some changes mislead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from ssl_sweep.data.eval_crop import Crop, EvalCrop, cut
from ssl_sweep.data.images import Images
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Splits
from ssl_sweep.data.views import Augment
from ssl_sweep.evaluations import linear
from ssl_sweep.evaluations.robustness import KNOBS, evaluate, view_of
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.training.loop import Stage, Stop

SIZE = 28  # of a view; the short side is resized to 32
CROP = Crop(32, SIZE, "bilinear")
SIDES = ((40, 60), (60, 40), (32, 32), (20, 31))


class Corners(nn.Module):
    """The mean colour of the left and of the right half."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([half.mean(dim=(2, 3)) for half in x.chunk(2, dim=3)], dim=1)


def photos() -> tuple[Images, list[Tensor]]:
    """Images of several sizes as a batch, and one by one."""
    rng = torch.Generator().manual_seed(0)
    each = [torch.randint(256, (3, *sides), generator=rng, dtype=torch.uint8) for sides in SIDES]
    pixels = torch.zeros(len(each), 3, 60, 60, dtype=torch.uint8)
    for frame, image in zip(pixels, each, strict=True):
        frame[:, : image.shape[1], : image.shape[2]] = image
    return Images(pixels, torch.tensor(SIDES)), each


def resized(image: Tensor) -> Tensor:
    return tv.resize(image.float() / 255, [32], antialias=True)


def test_the_center_crop_is_torchvisions() -> None:
    images, each = photos()
    expected = torch.stack([tv.center_crop(resized(image), [SIZE, SIZE]) for image in each])
    torch.testing.assert_close(view_of("center", CROP, torch.Generator())(images), expected, atol=1e-5, rtol=0)


def test_a_random_crop_lies_anywhere_in_the_resized_image() -> None:
    images, each = photos()
    rng = torch.Generator().manual_seed(1)
    places: list[set[tuple[int, int]]] = [set() for _ in each]
    for _ in range(60):
        for found, image, seen in zip(cut(images, CROP, rng), map(resized, each), places, strict=True):
            windows = image.unfold(1, SIZE, 1).unfold(2, SIZE, 1)  # (3, top, left, SIZE, SIZE)
            error = (windows - found[:, None, None]).abs().amax(dim=(0, 3, 4))
            assert error.min() < 1e-5
            seen.add(divmod(int(error.argmin()), error.shape[1]))
    for image, seen in zip(each, places, strict=True):
        high, wide = (side - SIZE + 1 for side in resized(image).shape[1:])
        for places_seen, room in zip(map(set, zip(*seen, strict=True)), (high, wide), strict=True):
            assert places_seen <= set(range(room))
            assert len(places_seen) > 0.75 * room
            assert max(places_seen) - min(places_seen) >= 0.9 * (room - 1)


@pytest.mark.parametrize("name", KNOBS)
def test_a_change_is_one_thing_done_to_every_center_crop(name: str) -> None:
    images, _ = photos()
    clean = cut(images, CROP).mul(255).round() / 255
    found = view_of(name, CROP, torch.Generator().manual_seed(2))(images)
    certain: dict[str, Tensor] = {
        "flip": clean.flip(3),
        "gray": tv.rgb_to_grayscale(clean, num_output_channels=3),
        "solarize": tv.solarize(clean, 0.5),
    }
    if name in certain:
        torch.testing.assert_close(found, certain[name], atol=1e-6, rtol=0)
    elif name == "mask":
        hidden = (found != clean).any(dim=1).float().mean(dim=(1, 2))
        assert hidden.tolist() == pytest.approx([0.25] * len(SIDES), abs=0.02)
    else:
        assert ((found - clean).abs().amax(dim=(1, 2, 3)) > 0.02).sum() >= 3  # a blur may be drawn weak
        means = (found.mean(dim=(1, 2, 3)) - clean.mean(dim=(1, 2, 3))).abs()
        assert (means < (0.01 if name == "blur" else 0.3)).all()


@pytest.mark.parametrize("size", [4, 8, 28, 32, 96, 97, 224])
def test_every_image_size_can_be_masked(size: int) -> None:
    images = Images(torch.full((2, 3, 50, 50), 200, dtype=torch.uint8), torch.full((2, 2), 50))
    assert view_of("mask", EvalCrop().at(size), torch.Generator())(images).shape == (2, 3, size, size)


def pack(count: int, seed: int) -> Pack:
    """Class 0 and 1: red on the left or on the right of green; 2 and 3: blue and a blue that is darker."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    pixels = np.zeros((count, 3, 16, 16))
    pixels[labels == 0, 0, :, :8] = pixels[labels == 1, 0, :, 8:] = 200
    pixels[labels == 0, 1, :, 8:] = pixels[labels == 1, 1, :, :8] = 200
    pixels[labels == 2, 2], pixels[labels == 3, 2] = 200, 90
    noisy = (pixels + rng.integers(0, 20, pixels.shape)).astype(np.uint8)
    return Pack(noisy.reshape(-1), np.full((count, 2), 16), torch.from_numpy(labels), tuple("abcd"), ())


def splits() -> Splits:
    return Splits(pack(200, 0), pack(80, 1), pack(80, 2), 16)


def run(folder: Path, stop_at: int | None = None, **settings: Any) -> tuple[dict[str, float], list[int]]:
    steps: list[int] = []

    def report(metrics: dict[str, float], step: int) -> None:
        steps.append(step)
        if step == stop_at:
            raise Stop("asked to")

    stage = Stage(folder, report, 3, torch.device("cpu"))
    torch.manual_seed(0)
    return evaluate(Corners(), splits(), stage, **{"epochs": 10, "batch_size": 32, **settings}), steps


def test_a_change_misleads_the_probe_where_it_takes_away_what_the_classes_differ_in(tmp_path: Path) -> None:
    found, steps = run(tmp_path)
    assert steps == list(range(1, 12))
    for split in ("val", "test"):
        assert found[f"top1_{split}"] == found[f"top1_center_{split}"] == 100
        assert found[f"top1_crop_{split}"] == found[f"top1_blur_{split}"] == 100
        assert found[f"top1_flip_{split}"] == 50  # left and right are taken for one another
        assert found[f"top1_gray_{split}"] < 60  # the colours are


@pytest.mark.parametrize("crop", [Crop(16, 16, "bilinear"), Crop(16, 12, "bicubic")])
def test_the_center_crop_is_that_of_the_linear_probe(tmp_path: Path, crop: Crop) -> None:
    seen = splits()
    own = replace(seen, train=seen.train.seen_by(crop), val=seen.val.seen_by(crop), test=seen.test.seen_by(crop))
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 32, "lr": (0.001,), "weight_decay": 0.0}
    found = []
    for name, measure in (("linear", linear.evaluate), ("robustness", evaluate)):
        torch.manual_seed(0)
        stage = Stage(tmp_path / name, lambda metrics, step: None, 3, torch.device("cpu"))
        found.append(measure(Corners(), own, stage, **settings))  # the same head: weights and order by the same seed
    assert 0 < found[0]["top1_test"] < 100
    for split in ("val", "test"):
        assert found[0][f"top1_{split}"] == found[1][f"top1_{split}"] == found[1][f"top1_center_{split}"]


def test_only_the_changes_that_are_asked_for_are_measured(tmp_path: Path) -> None:
    settings = knobs.check(evaluate, {"changes": ["gray", "crop"], "epochs": 1, "lr": [1.0]}, "robustness")
    names = [metric.removeprefix("robustness/") for metric in load_evaluation("robustness").metrics(settings)]
    assert sorted(names) == sorted(run(tmp_path, **settings)[0])
    assert names[:2] == ["top1_val", "top1_test"]


def test_stopped_anywhere_it_ends_the_same(tmp_path: Path) -> None:
    expected, _ = run(tmp_path / "unbroken")
    for stop_at in (4, 10, 11):
        with pytest.raises(Stop):
            run(tmp_path / str(stop_at), stop_at)
        assert run(tmp_path / str(stop_at)) == (expected, list(range(min(stop_at + 1, 11), 12)))


def test_what_is_random_is_drawn_alike_in_every_trial_of_a_seed(tmp_path: Path) -> None:
    stages = [Stage(tmp_path / str(seed), lambda metrics, step: None, seed, torch.device("cpu")) for seed in (3, 3, 4)]
    images, _ = photos()
    first, again, other = (view_of("crop", CROP, stage.generator("crop", "val"))(images) for stage in stages)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    drawn = Augment(SIZE, flip=0.0).view(images, stages[0].generator("resized_crop", "val"))
    assert torch.equal(view_of("resized_crop", CROP, stages[1].generator("resized_crop", "val"))(images), drawn)
