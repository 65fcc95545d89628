"""Each kind of folder and table keeps what `ssl-sweep check` asks of a user's own source."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ssl_sweep.contracts.find import find
from ssl_sweep.contracts.report import run

from .test_arrow import save, save_dict
from .test_split_names import folders
from .test_webdataset import samples, shard


def table(home: Path) -> str:
    for number in range(20):
        Image.new("L", (8, 8), number).save(home / f"{number}.png")
    (home / "index.csv").write_text("\n".join(["path,label", *(f"{n}.png,{n % 2}" for n in range(20))]))
    return "table:set/index.csv"


def shards(home: Path) -> str:
    shard(home / "train-0.tar", samples(0, 20))
    shard(home / "train-1.tar", samples(20, 20))
    return "webdataset:set"


def arrow(home: Path) -> str:
    save_dict(home, train=[range(10), range(10, 20)], test=[range(4)])
    return "arrow:set"


def one_arrow(home: Path) -> str:
    save(home, [range(20)])
    return "arrow:set"


def upper_case(home: Path) -> str:
    folders(home, "Train", "Test")
    return "imagefolder:set"


@pytest.mark.parametrize("make", [table, shards, arrow, one_arrow, upper_case])
def test_a_source_keeps_the_contract_of_plugins(tmp_path: Path, make: Callable[[Path], str]) -> None:
    (tmp_path / "set").mkdir()
    name = make(tmp_path / "set")
    (subject,) = find(name, tmp_path)
    findings = list(run(subject, 60, lambda check: None))
    assert [(each.check, each.message) for each in findings if each.result == "fails"] == []
    assert sum(each.result == "holds" for each in findings) > 5
