"""A source of a user's own: opened like the package's, packed anew when it is edited, and told apart when it fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from services import SPEC

from ssl_sweep.data.images import AbsentDataError, DataError
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import Data, load_splits
from ssl_sweep.data.summary import summarize
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.plugins import catalog
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.service.spec_check import parse_submitted

SOURCE = """
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_sweep.data.items import Contents, ImageList, Source, hold_out_test


def open_source(argument: str, *, root: Path, split_seed: int) -> Source:
    count = int(argument)

    def read() -> Contents:
        labels = np.arange(count) % 2
        images = ImageList(labels, lambda row: f"shade {row}", lambda row: Image.new("L", (8, 8), row + SHIFT))
        return Contents(*hold_out_test(images, split_seed), ("even", "odd"))

    return Source("shades", {"count": count, "split_seed": split_seed}, read, ["made, not read"])
"""


def write(folder: Path, text: str) -> None:
    (folder / "sources").mkdir(exist_ok=True)
    (folder / "sources" / "shades.py").write_text(text)
    catalog.use(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A plugin folder in use, with one source."""
    write(tmp_path, SOURCE.replace("SHIFT", "0"))
    yield tmp_path
    catalog.use(None)


def darkest(folder: Path) -> int:
    splits = load_splits(Data(source="local/shades:20", image_size=8), root=folder, cache=folder / "cache")
    assert (len(splits.train), len(splits.val), len(splits.test), splits.num_classes) == (14, 2, 4, 2)
    packs = (splits.train, splits.val, splits.test)
    return min(int(pack.batch(pack.labels * 0).pixels.min()) for pack in packs)


def test_it_is_opened_and_summed_up_like_any_other(folder: Path) -> None:
    found = summarize(Data(source="local/shades:20", image_size=8), root=folder)
    assert (found.train_images, found.test_images, found.classes) == (14, 4, 2)
    assert "made, not read" in found.warnings
    assert darkest(folder) < 20


def test_an_edited_source_is_packed_anew(folder: Path) -> None:
    before = open_source("local/shades:20", root=folder).fingerprint
    low = darkest(folder)
    assert darkest(folder) == low
    write(folder, SOURCE.replace("SHIFT", "100"))
    assert open_source("local/shades:20", root=folder).fingerprint != before
    assert darkest(folder) == low + 100


def test_the_seed_of_a_split_counts_where_the_source_says_so(folder: Path) -> None:
    assert open_source("local/shades:20", root=folder, split_seed=7).fingerprint["split_seed"] == 7
    write(folder, SOURCE.replace("SHIFT", "0").replace(', "split_seed": split_seed', ""))
    assert "split_seed" not in open_source("local/shades:20", root=folder, split_seed=7).fingerprint


def test_names_are_listed_with_the_packages(folder: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean 'local/shades:20'.*known: .*digits, local/shades:ARGUMENT"):
        open_source("local_shades:20", root=folder)
    with pytest.raises(PluginError, match=r"there is no source 'local/other'.*has local/shades"):
        open_source("local/other:20", root=folder)
    with pytest.raises(DataError, match=r"data.splits: 'local/shades:20' has no folders or files to name"):
        open_source("local/shades:20", root=folder, splits={"train": "a"})


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("count = int(argument)", "count = int('many')", r"sources/shades.py:\d+: ValueError: invalid literal"),
        ('return Source("shades"', 'return list("shades"', r"shades.py:\d+: TypeError"),
        (
            '    return Source("shades",',
            '    return 1\n    return Source("shades",',
            "returns a int; let it return a Source",
        ),
        ('{"count": count', '{"count": open_source', "its fingerprint is not made of texts and numbers"),
        ("% 2", "% 3", "train: label 2 is no position among the 2 classes, and not -1 for none"),
        ("% 2", "% 2 - 2", "label -2 is no position"),
        ("% 2", "% 2.0", r"labels are float64 of shape \(20,\); let them be int64"),
        ("labels = ", "raise KeyError('labels')\n        labels = ", r"shades.py:\d+: KeyError: 'labels'"),
        ("return Contents(", "return (lambda *x: x)(", "its images are a tuple; let them be Contents"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(folder: Path, before: str, after: str, message: str) -> None:
    undivided = SOURCE.replace("SHIFT", "0").replace("*hold_out_test(images, split_seed)", "images, images")
    write(folder, undivided.replace(before, after))
    with pytest.raises(DataError, match=rf"^local/shades:20 \(.*sources/shades.py\): .*{message}"):
        _ = open_source("local/shades:20", root=folder).contents


def test_a_data_error_of_its_own_is_kept(folder: Path) -> None:
    text = SOURCE.replace(
        "count = int(argument)",
        "from ssl_sweep.data.images import AbsentDataError, DataError\n    raise DataError('mine')",
    )
    write(folder, text)
    with pytest.raises(DataError, match=r"^mine$"):
        open_source("local/shades:20", root=folder)


def test_a_service_takes_no_plugin_of_a_folder(folder: Path, tmp_path: Path) -> None:
    for source in ("local/shades:20", "local/shades"):
        spec = {**SPEC, "data": {**SPEC["data"], "source": source}}
        with pytest.raises(SpecError, match="is a plugin of"):
            parse_submitted(yaml.safe_dump(spec), [], [tmp_path])
    with pytest.raises(SpecError, match="is outside the folders that the service reads"):
        parse_submitted(yaml.safe_dump({**SPEC, "data": {**SPEC["data"], "source": "lab:/etc"}}), [], [tmp_path])


def test_files_that_a_source_lacks_are_absent_and_not_wrong(folder: Path) -> None:
    write(folder, SOURCE.replace("count = int(argument)", "count = len((root / argument).read_bytes())"))
    with pytest.raises(AbsentDataError, match=r"^data\.source: local/shades:none .*FileNotFoundError"):
        summarize(Data(source="local/shades:none", image_size=8), root=folder)
