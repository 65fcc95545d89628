"""What a plan says of the images equals what a trial then sees."""

from pathlib import Path
from typing import Any

import pytest

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Data, load_splits
from ssl_sweep.data.summary import summarize


@pytest.mark.parametrize(
    "fields", [{}, {"classes": ("9", "4"), "val_fraction": 0.3}, {"train_images": 100}, {"split_seed": 5}]
)
def test_the_sizes_are_those_of_the_splits(tmp_path: Path, fields: dict[str, Any]) -> None:
    data = Data(source="digits", image_size=8, **fields)
    found, splits = summarize(data, root=tmp_path), load_splits(data, root=tmp_path, cache=tmp_path)
    assert (found.train_images, found.val_images) == (len(splits.train), len(splits.val))
    assert (found.test_images, found.classes) == (len(splits.test), splits.num_classes)
    assert (found.unlabelled, found.warnings) == (0, ())


def test_no_image_is_opened(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    found = summarize(Data(source="imagefolder:.", image_size=8), root=tmp_path)
    assert (found.train_images, found.val_images, found.test_images, found.classes) == (14, 2, 4, 2)


@pytest.mark.parametrize("fields", [{"source": "imagefolder:nowhere"}, {"classes": ("ten",)}, {"val_fraction": 1e-4}])
def test_what_a_trial_would_refuse_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        summarize(Data(**{"source": "digits", "image_size": 8, **fields}), root=tmp_path)
