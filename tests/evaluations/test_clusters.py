"""k-means clusters of flat-coloured images, whose agreement with labels can be counted by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.data.images import DataError
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Splits
from ssl_sweep.evaluations.clusters import METRICS, evaluate
from ssl_sweep.training.loop import Stage

COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [120, 120, 120]])


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def pack(count: int, seed: int, labels: Tensor | None = None) -> Pack:
    """As many images of each colour, a class a colour, with a little noise."""
    rng = np.random.default_rng(seed)
    shown = np.arange(count) % len(COLOURS)
    pixels = COLOURS[shown][:, :, None, None] + rng.integers(-25, 26, (count, 3, 8, 8))
    found = torch.from_numpy(shown) if labels is None else labels
    sizes = np.full((count, 2), 8)
    return Pack(pixels.astype(np.uint8).reshape(-1), sizes, found, tuple("abcd"), ())


def splits(relabel: Tensor | None = None) -> Splits:
    labels = torch.arange(80) % 4
    return Splits(pack(80, 0), *(pack(80, seed, None if relabel is None else relabel[labels]) for seed in (1, 2)), 8)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, lambda metrics, step: None, 3, torch.device("cpu"))


def test_clusters_that_are_classes_agree_with_them(stage: Stage) -> None:
    found = evaluate(Mean(), splits(), stage)
    assert tuple(sorted(found)) == tuple(sorted(METRICS))
    assert found == pytest.approx(dict.fromkeys(METRICS, 100.0))


def test_twice_as_many_clusters_as_classes_are_counted_by_hand(stage: Stage) -> None:
    found = evaluate(Mean(), splits(relabel=torch.tensor([0, 0, 1, 1])), stage)
    both = math.comb(20, 2) * 4  # pairs that share a colour, and so a class too
    classes, clusters = 2 * math.comb(40, 2), 4 * math.comb(20, 2)
    chance = classes * clusters / math.comb(80, 2)
    ari = (both - chance) / ((classes + clusters) / 2 - chance)
    for split in ("val", "test"):
        assert found[f"nmi_{split}"] == pytest.approx(100 * math.log(2) / ((math.log(2) + math.log(4)) / 2))
        assert found[f"ari_{split}"] == pytest.approx(100 * ari)


def test_labels_that_say_nothing_agree_by_chance(stage: Stage) -> None:
    rng = torch.Generator().manual_seed(0)
    shuffled = [pack(400, seed, torch.randint(4, (400,), generator=rng)) for seed in (1, 2)]
    found = evaluate(Mean(), Splits(pack(80, 0), *shuffled, 8), stage)
    assert all(abs(value) < 3 for value in found.values())


def test_training_labels_are_not_used(stage: Stage) -> None:
    relabelled = Splits(pack(80, 0, torch.zeros(80, dtype=torch.int64)), *(pack(80, seed) for seed in (1, 2)), 8)
    assert evaluate(Mean(), relabelled, stage) == evaluate(Mean(), splits(), stage)


def test_the_same_seed_gives_the_same_clusters(stage: Stage) -> None:
    first, again = (evaluate(Mean(), splits(), stage, k=7, inits=1, images=40) for _ in range(2))
    assert first == again
    assert first["nmi_test"] < 95  # seven clusters are not four classes


def test_more_clusters_than_images_are_refused(stage: Stage) -> None:
    with pytest.raises(DataError, match=r"evaluate\.clusters\.k: 81 clusters of 80 training images; lower k"):
        evaluate(Mean(), splits(), stage, k=81)
