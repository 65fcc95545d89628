"""Label-free measures on real digits: the formulas' values, no label, and encoders that differ as they should."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.data.views import Augment
from ssl_sweep.evaluations.label_free import METRICS, evaluate
from ssl_sweep.models import representation
from ssl_sweep.training.features import extract, fixed_subset
from ssl_sweep.training.loop import Stage
from ssl_sweep.training.view_features import view_features


class Collapsed(nn.Module):
    """The same point for every image, but for a little of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 + 5e-7 * x.flatten(1)


@pytest.fixture
def splits(cache: Path) -> Splits:
    return load_splits(Data(source="digits", image_size=8), root=Path(), cache=cache)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, lambda metrics, step: None, 3, torch.device("cpu"))


def test_it_measures_the_formulas(splits: Splits, stage: Stage) -> None:
    found = evaluate(nn.Flatten(), splits, stage, images=100, view_images=60, views=3, alpha_eigenvalues=20)
    assert tuple(found) == METRICS
    features, _ = extract(nn.Flatten(), fixed_subset(splits.test, 100), 8, stage)
    assert len(features) == 100
    assert found["rankme_test"] == representation.effective_rank(features)
    assert found["uniformity_test"] == representation.uniformity(features)
    assert (found["alpha_test"], found["alpha_r2_test"]) == representation.spectral_decay(features, 20)
    recipe = Augment(8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=0.2)  # MoCo-v2's
    drawn = [partial(recipe.view, rng=stage.generator("views", "test"))] * 3
    seen = view_features(nn.Flatten(), fixed_subset(splits.test, 60), drawn, stage)
    assert found["lidar_test"] == representation.lidar(seen)
    assert found["alignment_test"] == representation.alignment(seen)


def test_no_label_is_used(splits: Splits, stage: Stage) -> None:
    def relabelled(pack: Pack) -> Pack:
        shuffled = pack.subset(torch.arange(len(pack)))
        shuffled.labels = pack.labels.flip(0)
        return shuffled

    other = Splits(*(relabelled(pack) for pack in (splits.train, splits.val, splits.test)), image_size=8)
    assert not torch.equal(other.test.labels, splits.test.labels)
    assert evaluate(nn.Flatten(), splits, stage) == evaluate(nn.Flatten(), other, stage)


def test_a_collapse_shows(splits: Splits, stage: Stage) -> None:
    sound, collapsed = (evaluate(encoder, splits, stage) for encoder in (nn.Flatten(), Collapsed()))
    point = {"rankme": 1.0, "uniformity": 0.0, "lidar": 1.0, "alignment": 0.0}
    for split in ("val", "test"):
        assert {name: collapsed[f"{name}_{split}"] for name in point} == pytest.approx(point, abs=1e-3)
        assert math.isnan(collapsed[f"alpha_{split}"])
        assert math.isnan(collapsed[f"alpha_r2_{split}"])
        assert sound[f"rankme_{split}"] > 5
        assert sound[f"lidar_{split}"] > 5
        assert sound[f"uniformity_{split}"] < -1
        assert sound[f"alignment_{split}"] > 0.1


def test_stronger_views_are_worse_aligned(splits: Splits, stage: Stage) -> None:
    mild, strong = (
        evaluate(nn.Flatten(), splits, stage, crop_scale_min=1.0, color_strength=strength)["alignment_val"]
        for strength in (0.0, 1.0)
    )
    assert mild < strong
