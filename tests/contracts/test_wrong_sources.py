"""Each mistake in a source fails the check that is about it, and no other."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import Checked, changed, failures
from .right import SOURCE

FILES, RETURN = '"files": digest(files, folder)', 'return Source("numbered"'
OPENS, SPLITS = "it opens", "its splits have images"
LABELS, FINGERPRINT = "its labels are classes", "its fingerprint is the same each time"

MISTAKES: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "no source": (
        [(RETURN, 'return dict(a=1)\n    return Source("numbered"')],
        OPENS,
        "returns dict; return ssl_sweep",
    ),
    "no name": ([('Source("numbered"', "Source(None")], OPENS, "its name is None; give it a name"),
    "missing": (
        [("raise DataError", "raise KeyError")],
        "a set that is missing is refused in words",
        "'photos-that-is-missing' it raises KeyError: .*; raise ssl_sweep.data.images.DataError",
    ),
    "no contents": (
        [
            ("return Contents(*hold_out_test(images, split_seed)", "return list((images"),
            ('("a", "b"))', '("a", "b")))'),
        ],
        SPLITS,
        "its lists are list; return ",
    ),
    "no test images": (
        [("hold_out_test(images, split_seed)", "(images, images.select(np.arange(0)))")],
        SPLITS,
        "the test split has no images; a set without a test split can hold some out",
    ),
    "classes from 1": (
        [("int(file.path[-5])", "int(file.path[-5]) + 1")],
        LABELS,
        "are 1 to 2, and there are 2 classes",
    ),
    "type of labels": ([("dtype=np.int64", "dtype=np.int32")], LABELS, "labels of train are int32"),
    "classes twice": ([('("a", "b")', '("a", "a")')], LABELS, "return a tuple of different texts"),
    "random order": (
        [
            ("files = list(list_files(folder))", "files = list(list_files(folder))\n    random.shuffle(files)"),
            ("import numpy", "import random\n\nimport numpy"),
            (FILES, f"{FILES[:-15]}(sorted(files), folder)"),
        ],
        "its lists are the same each time",
        "list other images, labels or orders; sort what",
    ),
    "no image": (
        [("Image.open(files[row].path)", "Image.open(__file__)")],
        "its images can be read",
        "not a readable image .*; return a PIL image",
    ),
    "one name": (
        [("lambda row: files[row].path, ", 'lambda row: "image", ')],
        "its images can be read",
        "images have the names .*; give each its own",
    ),
    "time in the fingerprint": (
        [(FILES, f"{FILES}, 'now': time.time_ns()"), ("import numpy", "import time\n\nimport numpy")],
        FINGERPRINT,
        "it is .*, then .*; make it of names, sizes and times of files",
    ),
    "objects in the fingerprint": ([(FILES, '"files": tuple(files)')], FINGERPRINT, "make it a dict of texts and numb"),
    "split not in the fingerprint": (
        [(', "split_seed": split_seed}', "}")],
        "its fingerprint changes with the split",
        "its split depends on split_seed, and its fingerprint does not; add it",
    ),
    "files not in the fingerprint": (
        [(FILES, '"files": len(files)')],
        "its fingerprint changes with its files",
        "it is the same after 00-0.png has changed, so that old images would be used",
    ),
}


@pytest.fixture(autouse=True)
def photos(tmp_path: Path) -> Path:
    """Twelve images of two classes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        pixels = np.full((8, 9, 3), 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}-{number % 2}.png")
    return folder


def test_a_right_source_keeps_its_contract(checked: Checked) -> None:
    findings = checked("sources", SOURCE, argument=":photos")
    assert {finding.result for finding in findings} == {"holds"}, failures(findings)
    assert len(findings) == 10


def test_an_absolute_argument_is_as_good(checked: Checked, photos: Path) -> None:
    findings = checked("sources", SOURCE, argument=f":{photos}")
    assert {finding.result for finding in findings} == {"holds"}, failures(findings)


def test_an_argument_can_stand_in_the_file(checked: Checked) -> None:
    assert (
        "the source has no argument to open; give it one: local/mine:ARGUMENT, or declare CHECK"
        in (failures(checked("sources", SOURCE))["it can be imported"])
    )
    findings = checked("sources", f'{SOURCE}\n\nCHECK = {{"argument": "../photos"}}\n')
    assert {finding.result for finding in findings} == {"holds"}, failures(findings)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_its_check_alone(checked: Checked, mistake: str) -> None:
    changes, check, message = MISTAKES[mistake]
    findings = checked("sources", changed(SOURCE, *changes), argument=":photos")
    assert list(failures(findings)) == [check], failures(findings)
    [failure] = (finding for finding in findings if finding.result == "fails")
    assert re.search(message, failure.message), failure.message
    assert failure.place is None or "/sources/mine.py:" in failure.place
