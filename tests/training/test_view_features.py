"""Features of views, on real digits."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.data.resample import center
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.data.views import Augment
from ssl_sweep.training.features import extract, fixed_subset
from ssl_sweep.training.loop import Stage
from ssl_sweep.training.view_features import view_features


class Probe(nn.Module):
    """Pixels, shown only in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return x.flatten(1)


@pytest.fixture
def splits(cache: Path) -> Splits:
    return load_splits(Data(source="digits", image_size=8), root=Path(), cache=cache)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, lambda metrics, step: None, 3, torch.device("cpu"))


def test_some_images_are_the_same_ones_every_time(splits: Splits) -> None:
    few, again, more = fixed_subset(splits.test, 20), fixed_subset(splits.test, 20), fixed_subset(splits.test, 10_000)
    assert torch.equal(few.batch(torch.arange(20)).pixels, again.batch(torch.arange(20)).pixels)
    assert torch.equal(few.labels, again.labels)
    assert not torch.equal(few.labels, splits.test.labels[:20])  # a set may be sorted by class
    assert len(more) == len(splits.test)


def test_each_view_has_the_features_of_every_image_in_order(splits: Splits, stage: Stage) -> None:
    views = [partial(center, size=8), lambda images: 1 - center(images, 8)]
    found = view_features(Probe(), splits.train, views, stage)  # more images than a batch
    expected, _ = extract(Probe(), splits.train, 8, stage)
    assert found.shape == (2, len(splits.train), 192)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], 1 - expected)


def test_random_views_differ_and_come_again_with_their_seed(splits: Splits, stage: Stage) -> None:
    def seen() -> Tensor:
        views = [partial(Augment(8).view, rng=stage.generator("views"))] * 2
        return view_features(Probe(), splits.val, views, stage)

    first, second = seen()
    assert not torch.equal(first, second)  # one generator draws for both
    assert torch.equal(torch.stack([first, second]), seen())
